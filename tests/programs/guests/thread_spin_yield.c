// Threads that take turns by a word, and give the processor away until it is theirs.
// flags: -pthread
// native: output
#include "threads.h"

enum { kThreads = 3, kTurns = 300 };
static atomic_int turn;
static void* work(void* argument) {
  const int me = (int)(intptr_t)argument;
  unsigned state = (unsigned)me;
  for (int i = 0; i < kTurns; ++i) {
    while (atomic_load(&turn) % kThreads != me) sched_yield();
    if (i % 100 == 0)
      for (int n = 0; n < 20000; ++n) next_random(&state);
    atomic_fetch_add(&turn, 1);
  }
  return NULL;
}

int main(void) {
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  printf("%d turns\n", atomic_load(&turn));
  return 0;
}
