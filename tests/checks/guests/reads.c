// A check that reads 100 MB, and one that writes 20 MB that are undone.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vassert.h"

enum { SIZE = 100 << 20, WRITTEN = 20 << 20 };

static unsigned long sum_of(const unsigned char* bytes, size_t size) {
  unsigned long sum = 0;
  for (size_t i = 0; i < size; ++i) sum += bytes[i];
  return sum;
}

int main(void) {
  unsigned char* bytes = malloc(SIZE);
  memset(bytes, 1, SIZE);
  VASSERT_MSG(sum_of(bytes, SIZE) == SIZE, "sum %lu", sum_of(bytes, SIZE));
  bytes[SIZE - 1] = 3;
  VASSERT_MSG(sum_of(bytes, SIZE) == SIZE, "sum %lu", sum_of(bytes, SIZE));
  VASSERT_BLOCK {
    memset(bytes, 7, WRITTEN);
    VASSERT_LOG("first %d", bytes[0]);
  }
  VASSERT_BLOCK { VASSERT_LOG("first again %d", bytes[0]); }
  printf("%lu\n", sum_of(bytes, SIZE));
  return 0;
}
