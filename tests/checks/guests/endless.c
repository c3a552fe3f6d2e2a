// endless N: rounds with a system call in each; in N of them, far apart, a check does not end.
#include <stdlib.h>
#include <unistd.h>

#include "vassert.h"

__attribute__((noinline)) static int turn(int round, int endless) {
  VASSERT_BLOCK {
    for (volatile int goes_on = endless; goes_on;) {
    }
  }
  VASSERT(round % 20 != 7);
  return round;
}

int main(int argc, char** argv) {
  const int most = argc > 1 ? atoi(argv[1]) : 1;
  volatile int sum = 0;
  for (int round = 0; round < 60; ++round) {
    sum += turn(round, round % 10 == 5 && round / 10 < most);
    getppid();
  }
  return 0;
}
