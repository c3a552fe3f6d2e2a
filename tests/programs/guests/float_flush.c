// Results that are flushed to zero, at every rounding, and the flags that tell of it; x87 does not flush.
#include <float.h>
#include <xmmintrin.h>

#include "check.h"

int main(void) {
  volatile double small = DBL_MIN;
  volatile float small_float = FLT_MIN;
  for (unsigned rounding = 0; rounding < 4; ++rounding) {
    _mm_setcsr(0x1f80 | 0x8000 | rounding << 13);
    const volatile double half = small * 0.5;
    const volatile float half_float = small_float * 0.5F;
    const unsigned status = _mm_getcsr();
    _mm_setcsr(0x1f80);
    CHECK(half == 0 && half_float == 0);
    CHECK((status & 0x30) == 0x30);  // underflow, inexact
  }
  CHECK(small * 0.5 != 0);
  _mm_setcsr(0x1f80 | 0x8000);
  volatile long double tiny = LDBL_MIN;
  volatile long double half = tiny / 2;
  _mm_setcsr(0x1f80);
  CHECK(half != 0);
  puts("flushed");
  return 0;
}
