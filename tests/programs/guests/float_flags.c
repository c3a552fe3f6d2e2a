// The sticky exception flags, and flushing to zero.
// flags: -lm
#include <fenv.h>
#include <float.h>
#include <xmmintrin.h>

#include "check.h"

int main(void) {
  feclearexcept(FE_ALL_EXCEPT);
  volatile double zero = 0, big = DBL_MAX, denormal = DBL_MIN;
  volatile double r = 1 / zero;
  CHECK(fetestexcept(FE_ALL_EXCEPT) == FE_DIVBYZERO);
  r = big * big;
  r = zero / zero;
  printf("flags %x %x %g\n", fetestexcept(FE_ALL_EXCEPT), _mm_getcsr(), r);
  CHECK(fetestexcept(FE_INVALID) && fetestexcept(FE_OVERFLOW));
  _mm_setcsr(_mm_getcsr() | 0x8040);  // flush to zero, denormals are zero
  CHECK(denormal / 2 == 0);
  return 0;
}
