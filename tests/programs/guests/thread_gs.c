// Each thread has its FS and GS bases.
// flags: -pthread
// native: output
#include <asm/prctl.h>

#include "threads.h"

enum { kThreads = 3 };
static unsigned long areas[kThreads][2];
static unsigned long gs_word(void) {
  unsigned long word;
  asm volatile("mov %%gs:8, %0" : "=r"(word));
  return word;
}
static void* work(void* argument) {
  const intptr_t me = (intptr_t)argument;
  unsigned long base = 1;
  CHECK(syscall(SYS_arch_prctl, ARCH_GET_GS, &base) == 0 && base == 0);
  CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, areas[me]) == 0);
  areas[me][1] = 1000 + (unsigned long)me;
  for (int i = 0; i < 2000; ++i) {
    CHECK(gs_word() == 1000 + (unsigned long)me);
    if (i % 200 == 0) sched_yield();
  }
  CHECK(syscall(SYS_arch_prctl, ARCH_GET_GS, &base) == 0 && base == (unsigned long)areas[me]);
  CHECK(syscall(SYS_arch_prctl, ARCH_GET_FS, &base) == 0 && base == (unsigned long)pthread_self());
  return (void*)gs_word();
}

int main(void) {
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  for (int i = 0; i < kThreads; ++i) printf("%ld\n", (long)joined(threads[i]));
  return 0;
}
