// An interval timer's signals beside threads that compute: taken by the one that doesn't block them; of
// processor time, too.
// flags: -pthread
// native: output
#include <sys/time.h>

#include "threads.h"

enum { kTicks = 10 };
static atomic_int ticks[2], taker, ends;
static void handler(int signal) {
  CHECK(gettid() == atomic_load(&taker));
  atomic_fetch_add(&ticks[signal == SIGPROF], 1);
}
static void mask(int how) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGALRM), sigaddset(&set, SIGPROF);
  CHECK_OK(pthread_sigmask(how, &set, NULL));
}
static void* take(void* unused) {
  (void)unused;
  atomic_store(&taker, gettid());
  mask(SIG_UNBLOCK);
  for (volatile unsigned n = 0; !atomic_load(&ends); ++n) continue;
  return NULL;
}
static void* compute(void* unused) {
  (void)unused;
  unsigned state = 1;
  while (!atomic_load(&ends)) next_random(&state);
  return NULL;
}

int main(void) {
  const struct sigaction action = {.sa_handler = handler};
  CHECK(sigaction(SIGALRM, &action, NULL) == 0 && sigaction(SIGPROF, &action, NULL) == 0);
  mask(SIG_BLOCK);
  const pthread_t first = started(compute, NULL), second = started(take, NULL);
  until_set(&taker);
  const struct itimerval every = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
  CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
  while (atomic_load(&ticks[0]) < kTicks) sched_yield();
  CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0 && setitimer(ITIMER_PROF, &every, NULL) == 0);
  while (atomic_load(&ticks[1]) < 2) sched_yield();
  CHECK(setitimer(ITIMER_PROF, &never, NULL) == 0);
  atomic_store(&ends, 1);
  joined(first), joined(second);
  printf("ticks\n");
  return 0;
}
