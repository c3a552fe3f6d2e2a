// Code that one thread writes and another executes, in memory that changes its rights, and where both are
// allowed.
// flags: -pthread
// native: output
#include <sys/mman.h>

#include "threads.h"

enum { kRounds = 40 };
static unsigned char* code;
static atomic_int turn;
static int results[kRounds];

static void* execute(void* unused) {
  (void)unused;
  for (int i = 0; i < kRounds; ++i) {
    while (atomic_load(&turn) != 2 * i + 1) sched_yield();
    results[i] = ((int (*)(void))code)();
    atomic_fetch_add(&turn, 1);
  }
  return NULL;
}

int main(void) {
  code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(code != MAP_FAILED);
  const pthread_t thread = started(execute, NULL);
  int sum = 0;
  for (int i = 0; i < kRounds; ++i) {
    while (atomic_load(&turn) != 2 * i) sched_yield();
    const int protects = i % 4 == 3;
    if (protects) CHECK(mprotect(code, 4096, PROT_READ | PROT_WRITE) == 0);
    code[0] = 0xb8;  // mov $i, %eax; ret
    memcpy(code + 1, &i, 4);
    code[5] = 0xc3;
    if (protects) CHECK(mprotect(code, 4096, PROT_READ | PROT_EXEC) == 0);
    if (i % 4 == 0) CHECK(mprotect(code, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
    atomic_fetch_add(&turn, 1);
    while (atomic_load(&turn) != 2 * i + 2) sched_yield();
    CHECK(results[i] == i);
    sum += results[i];
    if (protects) CHECK(mprotect(code, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
  }
  joined(thread);
  printf("%d\n", sum);
  return 0;
}
