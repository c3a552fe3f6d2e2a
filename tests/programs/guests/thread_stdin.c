// Threads that read the same standard input, a byte or a few at a time, until its end.
// flags: -pthread
// stdin: the quick brown fox jumps over the lazy dog and then it sleeps until the evening comes
// native: output
#include "threads.h"

enum { kThreads = 4 };
static atomic_int bytes, sum;
static void* take(void* argument) {
  char text[8];
  for (ssize_t n; (n = read(0, text, 1 + (size_t)(intptr_t)argument)) > 0;) {
    for (ssize_t i = 0; i < n; ++i) atomic_fetch_add(&sum, text[i]);
    atomic_fetch_add(&bytes, (int)n);
    sched_yield();
  }
  return NULL;
}

int main(void) {
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(take, (void*)i);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  printf("%d %d\n", atomic_load(&bytes), atomic_load(&sum));
  return 0;
}
