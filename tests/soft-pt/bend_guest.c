// Computes in ways that depend on memory which the test changes behind its back. Each getppid() carries the
// address of that memory in a register that the call ignores.
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>

static volatile int knob, pick;
static volatile unsigned long sum;

__attribute__((noinline)) void choose(void) {
  if (knob)
    sum += 3;
  else
    sum += 5;
}

static __attribute__((noinline)) void first(void) { sum += 1; }
static __attribute__((noinline)) void second(void) { sum += 2; }
static void (*const table[2])(void) = {first, second};

__attribute__((noinline)) void dispatch(void) { table[pick & 1](); }

int main(void) {
  for (int i = 0; i < 200; ++i) {
    for (int j = 0; j < 20; ++j) {
      choose();
      dispatch();
    }
    syscall(SYS_getppid, &knob, &pick, (long)i);
  }
  return 0;
}
