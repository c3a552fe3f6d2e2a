// Rounds with a system call in each: a site that fails by itself and from within another one's check.
#include <unistd.h>

#include "vassert.h"

__attribute__((noinline)) static int element(int i) {
  VASSERT(i % 5 != 3);
  return i * 7;
}

__attribute__((noinline)) static int total(int count) {
  VASSERT_BLOCK {
    int sum = 0;
    for (int i = 0; i < count; ++i) sum += element(i);
    if (sum % 4 == 1) VASSERT_FAIL("sum %d", sum);
  }
  return count;
}

int main(void) {
  volatile int sum = 0;
  for (int round = 0; round < 40; ++round) {
    sum += element(round);
    if (round % 3 != 2) sum += total(round % 7);
    sum += element(round + 1);
    getppid();
  }
  return 0;
}
