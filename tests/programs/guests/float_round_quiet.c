// ROUNDSD may be asked to tell of inexact results or not; conversions and comparisons raise their own flags.
// flags: -msse4.1
#include <smmintrin.h>

#include "check.h"

static unsigned flags(void) {
  const unsigned status = _mm_getcsr() & 0x3d;
  _mm_setcsr(0x1f80);
  return status;
}

int main(void) {
  volatile double values[4] = {2.5, 1e300, __builtin_nan(""), 3};
  volatile double result;
  volatile int integer;
  _mm_setcsr(0x1f80);
  __m128d a = _mm_set_sd(values[0]);
  result = _mm_cvtsd_f64(_mm_round_sd(a, a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
  CHECK(result == 2 && flags() == 0);
  result = _mm_cvtsd_f64(_mm_round_sd(a, a, _MM_FROUND_TO_NEG_INF));
  CHECK(result == 2 && flags() == 0x20);
  integer = _mm_cvttsd_si32(a);
  CHECK(integer == 2 && flags() == 0x20);
  integer = _mm_cvttsd_si32(_mm_set_sd(values[1]));
  CHECK(flags() == 1);
  result = values[1] * values[1];
  CHECK(flags() == 0x28);
  __asm__ volatile("ucomisd %0, %1" ::"m"(values[2]), "x"(a) : "cc");
  CHECK(flags() == 0);
  __asm__ volatile("comisd %0, %1" ::"m"(values[2]), "x"(a) : "cc");
  CHECK(flags() == 1);
  result = values[3] / 0.0;
  CHECK(flags() == 4);
  puts("flags");
  return 0;
}
