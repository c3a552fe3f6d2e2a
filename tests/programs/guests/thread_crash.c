// A thread that crashes takes all with it, whatever they do.
// flags: -pthread
// expect: signal SEGV
// native: output
#include "threads.h"

static atomic_int here;
static void* stay(void* computes) {
  atomic_fetch_add(&here, 1);
  for (volatile unsigned n = 0;; ++n)
    if (!computes) pause();
  return NULL;
}
static void* crash(void* unused) {
  (void)unused;
  while (atomic_load(&here) < 4) sched_yield();
  printf("now\n");
  fflush(stdout);
  *(volatile int*)8 = 1;
  return NULL;
}

int main(void) {
  for (intptr_t i = 0; i < 4; ++i) started(stay, (void*)(i % 2));
  joined(started(crash, NULL));
  return 1;
}
