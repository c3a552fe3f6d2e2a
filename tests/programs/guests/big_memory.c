// 64 MB, written in every page and in a pattern, read back.
#include <stdint.h>

#include "check.h"

int main(void) {
  const size_t words = (64u << 20) / 8;
  uint64_t* m = malloc(words * 8);
  CHECK(m);
  uint64_t x = 88172645463325252u;
  for (size_t i = 0; i < words; i += 16) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    m[i] = x;
  }
  uint64_t sum = 0;
  for (size_t i = 0; i < words; i += 16) sum = sum * 31 + m[i];
  memmove(m + 1000, m, 8u << 20);
  CHECK(m[1000] == m[0]);
  printf("%016lx %zu\n", sum, strnlen((char*)m, 100));
  return 0;
}
