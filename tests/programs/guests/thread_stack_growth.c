// The first thread's stack grows while others run and sleep; theirs are mappings that are used deeply, too.
// flags: -pthread
// native: output
#include "threads.h"

static atomic_int ends;
static int deep(int depth) {
  volatile char here[3000];
  here[0] = (char)depth, here[2999] = 1;
  if (depth % 100 == 0) sched_yield();
  return depth == 0 ? 0 : deep(depth - 1) + here[2999];
}
static void* work(void* depth) { return (void*)(intptr_t)deep((int)(intptr_t)depth); }
static void* spin(void* unused) {
  (void)unused;
  unsigned state = 1;
  while (!atomic_load(&ends)) next_random(&state);
  return NULL;
}

int main(void) {
  const pthread_t spinning = started(spin, NULL);
  const pthread_t first = started(work, (void*)1500), second = started(work, (void*)2000);
  const int own = deep(1800);
  printf("%d %ld %ld\n", own, (long)joined(first), (long)joined(second));
  atomic_store(&ends, 1);
  joined(spinning);
  return 0;
}
