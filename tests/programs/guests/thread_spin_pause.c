// A lock of the program's own that spins with PAUSE, and one with a counted loop of it and then a call.
// flags: -pthread
// native: output
#include "threads.h"

enum { kThreads = 3, kRounds = 400 };
static atomic_flag lock = ATOMIC_FLAG_INIT;
static atomic_uint ticket, served;
static volatile int counts[2];

static void* work(void* unused) {
  (void)unused;
  for (int i = 0; i < kRounds; ++i) {
    while (atomic_flag_test_and_set(&lock)) __builtin_ia32_pause();
    ++counts[0];
    if (i % 100 == 7) sched_yield();  // with the lock
    atomic_flag_clear(&lock);
    const unsigned own = atomic_fetch_add(&ticket, 1);
    for (int spins = 0; atomic_load(&served) != own; ++spins) {
      __builtin_ia32_pause();
      if (spins % 1000 == 999) sched_yield();
    }
    ++counts[1];
    atomic_fetch_add(&served, 1);
  }
  return NULL;
}

int main(void) {
  pthread_t threads[kThreads];
  for (int i = 0; i < kThreads; ++i) threads[i] = started(work, NULL);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  printf("%d %d\n", counts[0], counts[1]);
  return 0;
}
