// What is pending when the program ends, and timers that still run, end with it.
// expect: exit 9
#include <signal.h>
#include <sys/time.h>
#include <time.h>

#include "check.h"

int main(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGALRM);
  sigaddset(&set, SIGTERM);
  CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
  const struct itimerval every = {{0, 1000}, {0, 1000}};
  CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0 && raise(SIGTERM) == 0);
  const struct timespec pause = {0, 20000000};
  CHECK(nanosleep(&pause, NULL) == 0);
  CHECK(sigpending(&set) == 0 && sigismember(&set, SIGALRM));
  return 9;
}
