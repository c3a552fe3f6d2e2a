// Checks that reach other sites, sites that were inlined, and recursion.
#include <stdio.h>
#include <stdlib.h>

#include "vassert.h"

static int list[64];

__attribute__((noinline)) int element(int i) {
  VASSERT(i < 60);  // inner: also reached from the check of `total`
  return list[i];
}

static inline __attribute__((always_inline)) int scaled(int i, int factor) {
  VASSERT(factor != 3);  // inlined three times
  return i * factor;
}

__attribute__((noinline)) int total(int count) {
  VASSERT_BLOCK {
    int sum = 0;
    for (int i = 0; i < count; ++i) sum += element(i);
    if (sum > 1700) VASSERT_FAIL("sum %d", sum);
  }
  return count;
}

__attribute__((noinline)) int depth(int n) {
  VASSERT(n >= 0);
  VASSERT(n == 0 || depth(n - 1) == n);  // its check runs into its own site again
  return n == 0 ? 1 : depth(n - 1) + 1;
}

int main(int argc, char** argv) {
  (void)argv;
  for (int i = 0; i < 64; ++i) list[i] = i;
  int result = element(5) + total(50) + total(62) + depth(4);
  result += scaled(argc, 2) + scaled(argc, 3) + scaled(argc, 4);
  printf("%d\n", result);
  return 0;
}
