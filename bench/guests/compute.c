// Integer, floating-point and memory work with hardly a system call. args: rounds
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { kWords = 1 << 18 };

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : 100;
  uint64_t* table = calloc(kWords, sizeof *table);
  if (table == NULL) return 1;
  uint64_t state = 88172645463325252u;
  double sum = 0;
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < kWords; ++i) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      table[state % kWords] += state;
      sum += (double)(table[i] >> 40) * 1e-9;
    }
  }
  printf("%lu %.6f\n", (unsigned long)state, sum);
  return 0;
}
