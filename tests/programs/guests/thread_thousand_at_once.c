// A thousand threads that are all there at once.
// flags: -pthread
// native: output
// differs-on: soft each thread has an engine of some 3.7 MiB there, and all of them follow each change of mappings
#include "threads.h"

enum { kThreads = 1000, kStack = 1 << 16 };

static pthread_barrier_t all;
static void* meet(void* number) {
  pthread_barrier_wait(&all);
  return number;
}

int main(void) {
  static pthread_t threads[kThreads];
  pthread_attr_t small;
  CHECK_OK(pthread_attr_init(&small));
  CHECK_OK(pthread_attr_setstacksize(&small, kStack));
  CHECK_OK(pthread_barrier_init(&all, NULL, kThreads + 1));
  for (intptr_t i = 0; i < kThreads; ++i) CHECK_OK(pthread_create(&threads[i], &small, meet, (void*)i));
  pthread_barrier_wait(&all);
  intptr_t sum = 0;
  for (int i = 0; i < kThreads; ++i) sum += (intptr_t)joined(threads[i]);
  printf("%ld\n", (long)sum);
  return 0;
}
