// A thread whose loop has no branch but the jump to its beginning, and changes nothing but memory: what the
// others see of that differs from run to run, and a replay must see the same.
// not-sanitized: a replay looks at each of some ten million turns of the loop
// flags: -pthread
// native: status
#include "threads.h"

static volatile unsigned counter;
static void* count(void* unused) {
  (void)unused;
  asm volatile(
      "1: incl %0\n\t"
      "jmp 1b"
      : "+m"(counter));
  return NULL;
}

int main(void) {
  started(count, NULL);
  for (int i = 0; i < 3; ++i) {
    nap(3);
    printf("%u\n", counter);
  }
  return 0;
}
