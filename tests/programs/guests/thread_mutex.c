// Threads that want the same mutexes: nothing is lost, also where one sleeps with the lock.
// flags: -pthread
// native: output
#include "threads.h"

enum { kThreads = 4, kRounds = 1500 };
static pthread_mutex_t mutexes[3] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER,
                                     PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP};
static volatile long counts[3];
static int holder[3];

static void* work(void* argument) {
  const int me = (int)(intptr_t)argument;
  unsigned state = (unsigned)me;
  for (int round = 0; round < kRounds; ++round) {
    const int i = (int)(next_random(&state) % 3);
    CHECK_OK(pthread_mutex_lock(&mutexes[i]));
    holder[i] = me;
    ++counts[i];
    if (round % 500 == me) nap(1);
    if (round % 50 == me) sched_yield();
    CHECK(holder[i] == me);
    CHECK_OK(pthread_mutex_unlock(&mutexes[i]));
  }
  return NULL;
}

int main(void) {
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  printf("%ld %ld %ld\n", counts[0], counts[1], counts[2]);
  CHECK(counts[0] + counts[1] + counts[2] == (long)kThreads * kRounds);
  return 0;
}
