// exit() of a thread that isn't the first one, while that waits for it and others compute and wait.
// flags: -pthread
// expect: exit 12
// native: output
#include <semaphore.h>

#include "threads.h"

static sem_t never;
static atomic_int here;
static void* stay(void* computes) {
  atomic_fetch_add(&here, 1);
  for (volatile unsigned n = 0;; ++n)
    if (!computes) sem_wait(&never);
  return NULL;
}
static void* leave(void* unused) {
  (void)unused;
  while (atomic_load(&here) < 4) sched_yield();
  printf("leaving\n");
  exit(12);
}

int main(void) {
  CHECK(sem_init(&never, 0, 0) == 0);
  for (intptr_t i = 0; i < 4; ++i) started(stay, (void*)(i % 2));
  joined(started(leave, NULL));
  return 1;
}
