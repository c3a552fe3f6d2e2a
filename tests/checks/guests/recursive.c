// Checks that come by their own site again: deeper in the stack, and without an end.
#include "vassert.h"

__attribute__((noinline)) static int again(int n) {
  VASSERT(n == 0 || again(n - 1) < 0);  // fails, but only after another call of the function is over
  return n;
}

__attribute__((noinline)) static int for_ever(int n) {
  VASSERT(for_ever(n + 1) == 0);
  return n;
}

int main(void) { return again(2) + for_ever(0) - 2; }
