// checked KIND COUNT: a site of that kind, hit COUNT times: "compare" (a comparison), "write" (a check that
// writes and allocates), "read" (one that reads 64 KiB) or "nested" (a comparison, in loops of ten turns).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vassert.h"

static unsigned char bytes[64 << 10];

static unsigned sum_of(const unsigned char* from, size_t size) {
  unsigned sum = 0;
  for (size_t i = 0; i < size; ++i) sum += from[i];
  return sum;
}

__attribute__((noinline)) static int compare(int i) {
  VASSERT(i >= 0);
  return i ^ 5;
}
__attribute__((noinline)) static int with_writes(int i) {
  VASSERT_BLOCK {
    unsigned char* copy = malloc(4096);
    memcpy(copy, bytes, 4096);
    if (copy[i % 4096] != 0) VASSERT_FAIL("%d", i);
    free(copy);
  }
  return i ^ 5;
}
__attribute__((noinline)) static int with_reads(int i) {
  VASSERT(sum_of(bytes, sizeof bytes) == 0);
  return i ^ 5;
}

// `count` turns, by loops of ten within each other; some turns go another way.
__attribute__((noinline)) static int nested(int from, int count) {
  int sum = 0;
  if (count <= 10) {
    for (int i = from; i < from + count; ++i) {
      VASSERT(i >= from);
      sum += i & 1;
    }
    return sum;
  }
  const int part = (count + 9) / 10;
  for (int done = 0; done < count; done += part)
    sum += nested(from + done, count - done < part ? count - done : part);
  return sum;
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  int (*const step)(int) = argv[1][0] == 'c' ? compare : argv[1][0] == 'w' ? with_writes : with_reads;
  // The program itself uses the heap: otherwise each check would set it up anew.
  unsigned char* own = malloc(4096);
  memcpy(own, bytes, argc);
  int sum = own[0];
  free(own);
  if (argv[1][0] == 'n') sum += nested(0, atoi(argv[2]));
  for (int i = 0; argv[1][0] != 'n' && i < atoi(argv[2]); ++i) sum += step(i) & 1;
  printf("%d\n", sum);
  return 0;
}
