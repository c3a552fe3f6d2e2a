// Signals read from a descriptor.
// record: --on-unsupported=continue
// says: signalfd4
#include <signal.h>
#include <sys/signalfd.h>

#include "check.h"

int main(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
  const int fd = signalfd(-1, &set, SFD_NONBLOCK);
  if (fd < 0) {
    printf("signalfd: %s\n", strerror(errno));  // the recorder may refuse it, but then clearly
    CHECK(errno == ENOSYS);
    return 0;
  }
  struct signalfd_siginfo info;
  CHECK_ERRNO(read(fd, &info, sizeof info), EAGAIN);
  raise(SIGUSR1);
  CHECK(read(fd, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1);
  return 0;
}
