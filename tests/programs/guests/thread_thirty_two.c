// Thirty-two threads at once, each with its number and its own memory; all are there before one goes on.
// flags: -pthread
// native: output
#include "threads.h"

enum { kThreads = 32 };
static atomic_int here;
static int tids[kThreads];
static unsigned sums[kThreads];

static void* work(void* argument) {
  const int i = (int)(intptr_t)argument;
  tids[i] = (int)syscall(SYS_gettid);
  atomic_fetch_add(&here, 1);
  while (atomic_load(&here) < kThreads) sched_yield();
  unsigned* own = malloc(1000 * sizeof *own);
  unsigned state = (unsigned)i;
  for (int n = 0; n < 1000; ++n) own[n] = next_random(&state);
  for (int n = 0; n < 1000; ++n) sums[i] += own[n] % 1000;
  free(own);
  return NULL;
}

int main(void) {
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  unsigned sum = 0;
  for (int i = 0; i < kThreads; ++i) {
    joined(threads[i]);
    sum = sum * 31 + sums[i];
    CHECK(tids[i] != getpid());
    for (int j = 0; j < i; ++j) CHECK(tids[i] != tids[j]);
  }
  printf("%u\n", sum);
  return 0;
}
