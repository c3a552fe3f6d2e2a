// FNSTENV and FNSAVE fill the reserved halves of their words with ones and mask exceptions; FSCALE of zero
// and infinity.
#include <stdint.h>

#include "check.h"

static long double scale(long double value, long double by) {
  __asm__("fscale" : "+t"(value) : "u"(by));
  return value;
}

int main(void) {
  uint16_t environment[54], control = 0x037f;
  memset(environment, 0, sizeof environment);
  __asm__ volatile("fninit; fld1; fldcw %1; fnstenv %0; fninit" : "=m"(environment) : "m"(control));
  CHECK(environment[0] == 0x037f && environment[1] == 0xffff);
  CHECK(environment[2] == 0x3800 && environment[3] == 0xffff);
  CHECK(environment[4] == 0x3fff && environment[5] == 0xffff);
  CHECK(environment[13] == 0xffff);
  control = 0x0372;  // invalid, division and overflow unmasked
  __asm__ volatile("fninit; fldcw %1; fnstenv %0; fnstcw %1; fninit" : "=m"(environment), "+m"(control));
  CHECK(environment[0] == 0x0372 && control == 0x037f);
  __asm__ volatile("fninit; fld1; fnsave %0" : "=m"(environment));
  CHECK(environment[1] == 0xffff && environment[2] == 0x3800 && environment[4] == 0x3fff);
  CHECK(environment[14 + 4] == 0x3fff && environment[14 + 3] == 0x8000);  // 1.0
  __asm__ volatile("fninit; fld1; data16 fnstenv %0; fninit" : "=m"(environment));
  CHECK(environment[0] == 0x037f && environment[1] == 0x3800 && environment[2] == 0x3fff);

  const long double infinity = __builtin_infl();
  CHECK(scale(0, 5) == 0 && scale(0, -infinity) == 0);
  CHECK(scale(1, infinity) == infinity && scale(3, -infinity) == 0);
  CHECK(scale(infinity, 5) == infinity && scale(-infinity, infinity) == -infinity);
  CHECK(scale(0, infinity) != scale(0, infinity));  // invalid
  CHECK(scale(3, 2.9L) == 12 && scale(-3, -1.5L) == -1.5L);
  // Where the last instruction was is told by KVM only, and must not stay in memory.
  memset(environment, 0, sizeof environment);
  __asm__ volatile("" ::"m"(environment));
  puts("environment");
  return 0;
}
