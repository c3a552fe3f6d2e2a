// A thread for signals: sigwaitinfo takes what others send, to the process and to itself, queued in their
// order; sigtimedwait with and without a signal.
// flags: -pthread
// native: output
#include "threads.h"

static sigset_t set;
static atomic_int taken;
static void* take(void* unused) {
  (void)unused;
  for (;;) {
    siginfo_t info;
    int signal;
    while ((signal = sigwaitinfo(&set, &info)) == -1) CHECK(errno == EINTR);
    CHECK(info.si_pid == getpid());
    if (signal == SIGTERM) return NULL;
    CHECK(info.si_code == SI_QUEUE && signal == info.si_signo);
    printf("SIGRTMIN+%d: %d\n", signal - SIGRTMIN, info.si_value.sival_int);
    atomic_fetch_add(&taken, 1);
  }
}

int main(void) {
  sigemptyset(&set);
  sigaddset(&set, SIGTERM), sigaddset(&set, SIGRTMIN), sigaddset(&set, SIGRTMIN + 1);
  CHECK_OK(pthread_sigmask(SIG_BLOCK, &set, NULL));
  for (int i = 0; i < 3; ++i)
    CHECK(sigqueue(getpid(), SIGRTMIN + 1 - i % 2, (union sigval){.sival_int = i}) == 0);
  const pthread_t thread = started(take, NULL);
  while (atomic_load(&taken) < 3) sched_yield();
  for (int i = 10; i < 15; ++i) CHECK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i}) == 0);
  while (atomic_load(&taken) < 8) sched_yield();
  sigset_t pending;
  CHECK(sigpending(&pending) == 0 && !sigismember(&pending, SIGRTMIN));
  for (int i = 20; i < 23; ++i)
    CHECK_OK(pthread_sigqueue(thread, SIGRTMIN + 1, (union sigval){.sival_int = i}));
  while (atomic_load(&taken) < 11) sched_yield();
  CHECK(kill(getpid(), SIGTERM) == 0);
  joined(thread);
  const struct timespec soon = {0, 2000000}, now = {0, 0};
  CHECK_ERRNO(sigtimedwait(&set, NULL, &soon), EAGAIN);
  CHECK_ERRNO(sigtimedwait(&set, NULL, &now), EAGAIN);
  CHECK_OK(pthread_kill(pthread_self(), SIGTERM));
  CHECK(sigtimedwait(&set, NULL, &soon) == SIGTERM);
  return 0;
}
