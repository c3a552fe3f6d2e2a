// Recursion without an end.
// flags: -Wno-infinite-recursion
// expect: signal SEGV
#include "check.h"

__attribute__((noinline)) static int forever(int level) {
  volatile char frame[5000];
  frame[0] = (char)level;
  return forever(level + 1) + frame[0];
}

int main(void) {
  puts("here it goes");
  fflush(stdout);
  return forever(0);
}
