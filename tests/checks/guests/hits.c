// hits N: one site, hit N times.
#include <stdio.h>
#include <stdlib.h>

#include "vassert.h"

static int counts[8];

__attribute__((noinline)) static int step(int i) {
  VASSERT(counts[i % 8] * 8 <= i && i != 70007);
  if (i < 5) {
    VASSERT_BLOCK {
      for (volatile int stop = 0; !stop;) {
      }
    }
  }
  return ++counts[i % 8];
}

int main(int argc, char** argv) {
  const int count = argc > 1 ? atoi(argv[1]) : 1000;
  long sum = 0;
  for (int i = 0; i < count; ++i) {
    sum += step(i);
    if (i % 4096 == 4095) putchar('.');
  }
  printf("%ld\n", sum);
  return 0;
}
