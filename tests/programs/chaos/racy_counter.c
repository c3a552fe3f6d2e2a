// Threads that count without a lock. What is lost depends on where each is interrupted; natively on one
// processor, or with long slices, it is nothing. No failure: the count is printed.
#include "../guests/threads.h"

enum { kThreads = 3, kRounds = 2000 };
static volatile unsigned counter;
static void* count(void* unused) {
  (void)unused;
  for (int i = 0; i < kRounds; ++i) counter = counter + 1;
  return NULL;
}

int main(void) {
  pthread_t threads[kThreads];
  for (int i = 0; i < kThreads; ++i) threads[i] = started(count, NULL);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  printf("%u of %d\n", counter, kThreads * kRounds);
  return 0;
}
