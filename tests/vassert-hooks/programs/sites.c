// Sites of every kind, in C and (through sites.cc) in C++. Natively it prints its last line
// only; what VASSERT_EAGER=report prints is in sites.expected.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vassert.h"

static VASSERT_GHOST int calls;
static VASSERT_GHOST struct vassert_ghost_map seen;

static inline __attribute__((always_inline)) int inlined(int x) {
  VASSERT(x != 3 && "percent % and {braces|bars} in the text");
  return x + 1;
}

static int recursive(int n) {
  VASSERT_MSG(n != 2, "n is %d of %s", n, "4");
  return n == 0 ? 0 : n + recursive(n - 1);
}

static int lists_agree(const int* a, const int* b, size_t n) {
  VASSERT(n < 100);  // a site that checks reach
  return memcmp(a, b, n * sizeof *a) == 0;
}

static int early(int n) {
  VASSERT_BLOCK {
    for (int i = 0; i < 10; i++) {
      if (i == n) VASSERT_FAIL("found %d", i);
      if (i == 7) break;
    }
    if (n == 5) break;
    VASSERT(n != 6);
  }
  return n;
}

static double floating(double x, float* y, int n) {
  double sum = x;
  for (int i = 0; i < n; i++) {
    sum = sum * 1.25 + y[i];
    VASSERT_MSG(sum < 3.5, "sum %.4f", sum);  // true; keeps vectors live across a call
  }
  return sum;
}

static void ghosts(int value) {
  VASSERT_BLOCK {
    calls++;
    uint64_t* times = vassert_ghost_map_insert(&seen, (uint64_t)value);
    if (!times) {
      VASSERT_FAIL("no ghost memory");
      break;
    }
    if (++*times == 3) VASSERT_LOG("%d seen %d times in %d calls", value, (int)*times, calls);
  }
}

int main(void) {
  int total = 0;
  for (int i = 0; i < 5; i++) total += inlined(i);
  total += inlined(7) + inlined(8);
  total += recursive(4);
  int a[4] = {1, 2, 3, 4}, b[4] = {1, 2, 3, 5};
  VASSERT(VASSERT_CALL(lists_agree, a, a, 4));
  VASSERT_BLOCK { VASSERT(VASSERT_CALL(lists_agree, a, b, 4)); }
  for (int i = 3; i < 7; i++) total += early(i);
  float y[3] = {0.25f, 0.5f, 0.75f};
  double result = floating(0.5, y, 3);
  if (result != 2.7421875) printf("floating: %f\n", result);
  ghosts(11);
  ghosts(12);
  ghosts(11);
  ghosts(11);
#ifdef __cplusplus
  extern int more();
  total += more();
#endif
  VASSERT_LOG("total is %d", total);
  printf("main: %d done\n", total);
  return 0;
}
