// As many realtime signals wait as RLIMIT_SIGPENDING allows, in order; then sigqueue fails. What a process
// sends itself may have any si_code.
// beside: sh -c 'while [ ! -s pid ]; do sleep 0.05; done; kill -s SEGV $(cat pid)'
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

#include "check.h"

static volatile int count, in_order = 1, last_code, last_signal;
static void on_queued(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  in_order &= info->si_value.sival_int == count;
  ++count;
}
static void on_signal(int signal, siginfo_t* info, void* context) {
  (void)context;
  last_signal = signal;
  last_code = info->si_code;
}

static long queue(int signal, int code) {
  siginfo_t info = {.si_code = code};
  return syscall(SYS_rt_sigqueueinfo, getpid(), signal, &info);
}

int main(void) {
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_SIGPENDING, &limit) == 0);
  const int most = limit.rlim_max < 2000 ? (int)limit.rlim_max : 2000;
  limit.rlim_cur = (rlim_t)most;
  CHECK(setrlimit(RLIMIT_SIGPENDING, &limit) == 0);
  struct sigaction action = {.sa_sigaction = on_queued, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGRTMIN + 1, &action, NULL) == 0);
  sigset_t set, old;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN + 1);
  CHECK(sigprocmask(SIG_BLOCK, &set, &old) == 0);
  int accepted = 0;
  while (accepted < 2 * most && sigqueue(getpid(), SIGRTMIN + 1, (union sigval){accepted}) == 0) ++accepted;
  CHECK(errno == EAGAIN && accepted <= most && accepted > most / 2);
  CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
  CHECK(count == accepted && in_order);

  // A code of the kernel's, of a fault's, or none's: sent as it is, and no more forced than others.
  action.sa_sigaction = on_signal;
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGSEGV, &action, NULL) == 0);
  static const int kCodes[] = {SI_KERNEL, 1, 5, SI_USER, SI_QUEUE, SI_TKILL, SI_TIMER};
  for (size_t i = 0; i < sizeof kCodes / sizeof kCodes[0]; i++) {
    last_code = 1000;
    CHECK(queue(SIGUSR1, kCodes[i]) == 0 && last_code == kCodes[i]);
  }
  CHECK(queue(SIGSEGV, SEGV_ACCERR) == 0 && last_signal == SIGSEGV && last_code == SEGV_ACCERR);
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
  last_code = 1000;
  CHECK(queue(SIGUSR1, SI_KERNEL) == 0 && last_code == 1000);  // blocked is blocked
  siginfo_t info = {.si_code = 1234};
  ((char*)&info)[100] = 1;
  CHECK_ERRNO(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &info), E2BIG);
  CHECK(sigtimedwait(&set, &info, &(struct timespec){5, 0}) == SIGUSR1 && info.si_code == SI_KERNEL);

  // Blocked faults' signals from outside interrupt nothing, and can be waited for.
  sigaddset(&set, SIGSEGV);
  CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
  FILE* file = fopen("pid.new", "w");
  CHECK(file != NULL && fprintf(file, "%d\n", getpid()) > 0 && fclose(file) == 0 &&
        rename("pid.new", "pid") == 0);
  CHECK(nanosleep(&(struct timespec){1, 0}, NULL) == 0);
  CHECK(sigtimedwait(&set, &info, &(struct timespec){60, 0}) == SIGSEGV && info.si_code == SI_USER);
  CHECK_ERRNO(sigtimedwait(&set, &info, &(struct timespec){0, 1000000}), EAGAIN);
  return 0;
}
