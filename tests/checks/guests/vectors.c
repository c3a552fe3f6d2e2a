// A program with AVX2 between its checks and in one of them. On the soft vCPU plain checks run as ever, and
// the one with AVX is refused by name; the program's vector registers are as they were.
#include <immintrin.h>
#include <stdio.h>
#include <string.h>

#include "vassert.h"

#define AVX2 __attribute__((target("avx2")))

static int total;

AVX2 __attribute__((noinline)) static int sum(const int* values) {
  const __m256i all = _mm256_add_epi32(_mm256_loadu_si256((const __m256i*)values), _mm256_set1_epi32(1));
  int parts[8], result = 0;
  _mm256_storeu_si256((__m256i*)parts, all);
  for (int i = 0; i < 8; ++i) result += parts[i];
  return result;
}

AVX2 __attribute__((noinline)) static void work(int i) {
  int values[8], after[8];
  for (int j = 0; j < 8; ++j) values[j] = i * 100 + j;
  __asm__ volatile("vmovdqu %0, %%ymm9" ::"m"(values) : "xmm9");
  VASSERT(i < 4);
  __asm__ volatile("vmovdqu %%ymm9, %0" : "=m"(after));
  if (memcmp(values, after, sizeof values) != 0) puts("vector registers changed");
  total += sum(values);
}

int main(void) {
  for (int i = 0; i < 5; ++i) {
    work(i);
    int values[8] = {i, i, i, i, i, i, i, i};
    VASSERT(sum(values) == 8 * (i + 1));
  }
  printf("%d\n", total);
  return 0;
}
