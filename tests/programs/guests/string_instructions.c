// String instructions, both directions, all sizes, with counts of zero and across pages.
#include <stdint.h>

#include "check.h"

static unsigned char from[20000], to[20000];

int main(void) {
  for (size_t i = 0; i < sizeof from; ++i) from[i] = (unsigned char)(i * 7 + (i >> 8));
  void *s, *d;
  size_t n;
#define MOVE(instruction, source, target, count)                                \
  s = source, d = target, n = count;                                            \
  __asm__ volatile(instruction : "+S"(s), "+D"(d), "+c"(n) : : "memory", "cc"); \
  CHECK(n == 0)
  MOVE("rep movsb", from, to, 10001);
  CHECK(memcmp(from, to, 10001) == 0 && to[10001] == 0);
  MOVE("rep movsq", from + 1, to, 1000);
  CHECK(memcmp(from + 1, to, 8000) == 0 && s == from + 8001);
  MOVE("std; rep movsb; cld", from + 5000, to + 5000, 5000);
  CHECK(memcmp(from + 1, to + 1, 5000) == 0 && s == from);
  MOVE("std; rep movsl; cld", from + 8004, to + 8004, 1000);
  CHECK(memcmp(from + 4008, to + 4008, 4000) == 0);
  MOVE("rep movsb", from, to, 0);
  MOVE("rep movsb", to, to + 1, 9000);  // overlapping: fills
  CHECK(to[9000] == to[0] && to[4321] == to[0]);
  d = to, n = 5000;
  __asm__ volatile("rep stosw" : "+D"(d), "+c"(n) : "a"(0x1234) : "memory");
  CHECK(to[9999] == 0x12 && d == to + 10000);
  d = to, n = 12000;
  __asm__ volatile("repe scasb" : "+D"(d), "+c"(n) : "a"(0x34) : "cc");
  CHECK(d == to + 2 && n == 11998);
  memcpy(to, from, 20000);
  to[15000] ^= 1;
  s = from, d = to, n = 20000;
  __asm__ volatile("repe cmpsb" : "+S"(s), "+D"(d), "+c"(n) : : "cc");
  CHECK(s == from + 15001 && n == 4999);
  s = from + 19999, d = to + 19999, n = 20000;
  __asm__ volatile("std; repe cmpsb; cld" : "+S"(s), "+D"(d), "+c"(n) : : "cc");
  CHECK(s == from + 14999);
  uint64_t sum = 0;
  s = from;
  for (int i = 0; i < 100; ++i) {
    uint8_t byte;
    __asm__ volatile("lodsb" : "+S"(s), "=a"(byte));
    sum += byte;
  }
  printf("%lu\n", sum);
  return 0;
}
