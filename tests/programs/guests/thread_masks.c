// Each thread has a mask of its own, inherited from the one that made it; what is blocked stays pending for
// that thread alone, and comes when it is unblocked; sigsuspend, sigpending.
// flags: -pthread
// native: output
#include "threads.h"

static __thread volatile int got;
static void handler(int signal) { got = got * 100 + signal; }
static sigset_t set_of(int first, int second) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, first);
  if (second) sigaddset(&set, second);
  return set;
}
static pthread_barrier_t barrier;

static void* work(void* argument) {
  const int me = (int)(intptr_t)argument;
  sigset_t mask, own = set_of(me ? SIGUSR1 : SIGUSR2, 0);
  CHECK_OK(pthread_sigmask(SIG_SETMASK, NULL, &mask));
  CHECK(sigismember(&mask, SIGHUP) && !sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGUSR2));
  CHECK_OK(pthread_sigmask(SIG_BLOCK, &own, NULL));
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);  // both have been sent both
  CHECK(got == (me ? SIGUSR2 : SIGUSR1));
  CHECK(sigpending(&mask) == 0 && sigismember(&mask, SIGUSR1) == me && sigismember(&mask, SIGUSR2) == !me);
  CHECK(sigismember(&mask, SIGHUP) == 1);  // the process's
  CHECK_OK(pthread_sigmask(SIG_UNBLOCK, &own, NULL));
  CHECK(got == (me ? SIGUSR2 * 100 + SIGUSR1 : SIGUSR1 * 100 + SIGUSR2));
  CHECK(sigpending(&mask) == 0 && !sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGUSR2));
  got = 0;
  own = set_of(SIGUSR1, SIGUSR2);
  CHECK_OK(pthread_sigmask(SIG_BLOCK, &own, NULL));
  pthread_barrier_wait(&barrier);
  const sigset_t rest = set_of(SIGUSR1, SIGHUP);
  CHECK_ERRNO(sigsuspend(&rest), EINTR);
  CHECK(got == SIGUSR2);
  CHECK_OK(pthread_sigmask(SIG_SETMASK, NULL, &mask));
  CHECK(sigismember(&mask, SIGUSR1) && sigismember(&mask, SIGUSR2));
  return NULL;
}

int main(void) {
  const struct sigaction action = {.sa_handler = handler};
  for (int i = 0; i < 3; ++i) CHECK(sigaction((int[]){SIGUSR1, SIGUSR2, SIGHUP}[i], &action, NULL) == 0);
  sigset_t set = set_of(SIGHUP, 0);
  CHECK_OK(pthread_sigmask(SIG_BLOCK, &set, NULL));
  CHECK_OK(pthread_barrier_init(&barrier, NULL, 3));
  const pthread_t threads[] = {started(work, (void*)0), started(work, (void*)1)};
  pthread_barrier_wait(&barrier);
  CHECK(kill(getpid(), SIGHUP) == 0);
  // To the one that doesn't block it first, so that the order is the same: its handler has run before it goes
  // on.
  for (int i = 0; i < 2; ++i) {
    CHECK_OK(pthread_kill(threads[i], SIGUSR1));
    CHECK_OK(pthread_kill(threads[i], SIGUSR2));
  }
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  for (int i = 0; i < 2; ++i) CHECK_OK(pthread_kill(threads[i], SIGUSR2));
  joined(threads[0]), joined(threads[1]);
  CHECK_OK(pthread_sigmask(SIG_UNBLOCK, &set, NULL));
  CHECK(got == SIGHUP);
  printf("masks\n");
  return 0;
}
