// Threads that wait for a flag by looking at it and nothing else: in memory that only another thread changes.
// flags: -pthread
// native: output
#include "threads.h"

enum { kTurns = 12 };
static volatile int flag;
static void* work(void* argument) {
  const int me = (int)(intptr_t)argument;
  for (int i = 0; i < kTurns; ++i) {
    while (flag % 2 != me) continue;
    flag = flag + 1;
  }
  return NULL;
}
static void* compute_then_set(void* where) {
  unsigned state = 1;
  for (int i = 0; i < 200000; ++i) next_random(&state);
  *(volatile unsigned*)where = state;
  return NULL;
}

int main(void) {
  const pthread_t first = started(work, (void*)0), second = started(work, (void*)1);
  joined(first), joined(second);
  volatile unsigned found = 0;
  const pthread_t third = started(compute_then_set, (void*)&found);
  while (!found) continue;
  joined(third);
  CHECK(flag == 2 * kTurns);
  printf("%d turns, then %u\n", flag, found);
  return 0;
}
