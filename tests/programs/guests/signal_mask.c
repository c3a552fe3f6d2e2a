// Blocking, pending, sigsuspend, sigtimedwait, the order of pending signals, queued real-time signals.
#include <signal.h>
#include <time.h>

#include "check.h"

static volatile int order[20], count;
static void handler(int signal) { order[count++] = signal; }

int main(void) {
  sigset_t all, none, pending;
  sigfillset(&all);
  sigemptyset(&none);
  for (int s = SIGUSR1; s <= SIGUSR2; s += SIGUSR2 - SIGUSR1) signal(s, handler);
  signal(SIGRTMIN + 1, handler);
  signal(SIGRTMIN + 2, handler);
  CHECK(sigprocmask(SIG_BLOCK, &all, NULL) == 0);
  raise(SIGUSR2);
  raise(SIGUSR1);
  raise(SIGUSR1);
  raise(SIGRTMIN + 2);
  raise(SIGRTMIN + 1);
  raise(SIGRTMIN + 1);
  CHECK(count == 0 && sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1) &&
        !sigismember(&pending, SIGHUP));
  sigset_t only;
  sigfillset(&only);
  sigdelset(&only, SIGUSR2);
  CHECK_ERRNO(sigsuspend(&only), EINTR);
  CHECK(count == 1 && order[0] == SIGUSR2);
  siginfo_t info;
  sigemptyset(&only);
  sigaddset(&only, SIGRTMIN + 2);
  CHECK(sigwaitinfo(&only, &info) == SIGRTMIN + 2 && info.si_pid == getpid());
  const struct timespec soon = {0, 1000000};
  CHECK_ERRNO(sigtimedwait(&only, &info, &soon), EAGAIN);
  CHECK(sigprocmask(SIG_SETMASK, &none, &pending) == 0 && sigismember(&pending, SIGTERM));
  for (int i = 0; i < count; ++i) printf("%d ", order[i]);
  putchar('\n');
  CHECK(count == 4);
  return 0;
}
