// long_run STEPS MEGABYTES: each step changes words all over that much memory for about a millisecond, checks
// what it did with a VASSERT, and asks for the time: a program whose replay takes as long as its run.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vassert.h"

static uint64_t state = 88172645463325252u;

static uint64_t next(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

// Half of the steps stay within a sixteenth of the memory, as programs do.
__attribute__((noinline)) static uint64_t step(uint64_t* words, uint64_t count, int number) {
  const uint64_t within = number % 2 == 0 ? count / 16 : count;
  uint64_t sum = 0;
  for (int i = 0; i < 100000; ++i) {
    const uint64_t value = next();
    if (i % 16 == 0) words[value % within] += value;
    sum ^= value;
  }
  VASSERT(words[sum % count] + 1 != 0 || sum != 0);
  return sum;
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const uint64_t count = strtoull(argv[2], NULL, 10) * (1 << 20) / sizeof(uint64_t);
  uint64_t* words = calloc(count, sizeof *words);
  for (uint64_t i = 0; i < count; ++i) words[i] = next();
  uint64_t sum = 0;
  for (int i = 0; i < atoi(argv[1]); ++i) {
    sum ^= step(words, count, i);
    syscall(SYS_getppid);
  }
  printf("%lx\n", sum);
  return 0;
}
