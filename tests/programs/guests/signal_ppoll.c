// ppoll, pselect and epoll_pwait open the mask only while they wait.
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>

#include "check.h"

static volatile int seen;
static void handler(int signal) {
  (void)signal;
  ++seen;
}

int main(void) {
  sigset_t usr1, none;
  sigemptyset(&none);
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  signal(SIGUSR1, handler);
  CHECK(sigprocmask(SIG_BLOCK, &usr1, NULL) == 0);
  const struct timespec limit = {5, 0}, now = {0, 0};
  raise(SIGUSR1);
  CHECK(seen == 0);
  CHECK_ERRNO(ppoll(NULL, 0, &limit, &none), EINTR);
  CHECK(seen == 1 && ppoll(NULL, 0, &now, &none) == 0);
  raise(SIGUSR1);
  CHECK_ERRNO(pselect(0, NULL, NULL, NULL, &limit, &none), EINTR);
  CHECK(seen == 2);
  raise(SIGUSR1);
  struct epoll_event event;
  const int set = epoll_create1(0);
  CHECK_ERRNO(epoll_pwait(set, &event, 1, 5000, &none), EINTR);
  CHECK(seen == 3 && epoll_wait(set, &event, 1, 0) == 0);
  sigset_t current;
  CHECK(sigprocmask(SIG_BLOCK, NULL, &current) == 0 && sigismember(&current, SIGUSR1));
  return 0;
}
