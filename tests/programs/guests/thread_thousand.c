// A thousand short threads, sixty-four at a time.
// flags: -pthread
// native: output
#include "threads.h"

enum { kThreads = 1000, kAtOnce = 64 };
static atomic_uint sum;
static void* work(void* argument) {
  unsigned state = (unsigned)(uintptr_t)argument;
  atomic_fetch_add(&sum, next_random(&state) % 1000);
  return argument;
}

int main(void) {
  pthread_t threads[kAtOnce];
  for (intptr_t i = 0; i < kThreads; ++i) {
    if (i >= kAtOnce) CHECK(joined(threads[i % kAtOnce]) == (void*)(i - kAtOnce));
    threads[i % kAtOnce] = started(work, (void*)i);
  }
  for (intptr_t i = kThreads; i < kThreads + kAtOnce; ++i) joined(threads[i % kAtOnce]);
  printf("%u\n", atomic_load(&sum));
  return 0;
}
