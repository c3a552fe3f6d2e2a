// Signals to oneself through a pidfd and through /proc/PID: handlers, siginfo, errors.
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>

#include "check.h"

static volatile sig_atomic_t count, code, value;
static void on_signal(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  count++;
  code = info->si_code;
  value = info->si_value.sival_int;
}

static long send(long fd, int signal, siginfo_t* info, unsigned flags) {
  return syscall(SYS_pidfd_send_signal, fd, signal, info, flags);
}

int main(void) {
  struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  const long self = syscall(SYS_pidfd_open, getpid(), 0);
  CHECK(self >= 0 && send(self, 0, NULL, 0) == 0);
  CHECK(send(self, SIGUSR1, NULL, 0) == 0 && count == 1 && code == SI_USER);
  siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_QUEUE, .si_value.sival_int = 77};
  CHECK(send(self, SIGUSR1, &info, 0) == 0 && count == 2 && code == SI_QUEUE && value == 77);
  CHECK_ERRNO(send(self, SIGUSR2, &info, 0), EINVAL);
  CHECK_ERRNO(send(self, SIGUSR1, (siginfo_t*)8, 0), EFAULT);
  CHECK_ERRNO(send(self, 100, NULL, 0), EINVAL);
  CHECK_ERRNO(send(self, SIGUSR1, NULL, 1 << 20), EINVAL);
  CHECK_ERRNO(send(0, SIGUSR1, NULL, 0), EBADF);
  CHECK_ERRNO(send(99, SIGUSR1, NULL, 0), EBADF);
  char path[32];
  snprintf(path, sizeof path, "/proc/%d", getpid());
  const int directory = open(path, O_RDONLY | O_DIRECTORY);
  CHECK(directory >= 0 && send(directory, SIGUSR1, NULL, 0) == 0 && count == 3);
  // SIGTERM has no handler: the process would die of it. It is blocked.
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && send(self, SIGTERM, NULL, 0) == 0);
  CHECK(sigpending(&set) == 0 && sigismember(&set, SIGTERM));
  printf("%d %ld\n", getpid(), self);
  return 0;
}
