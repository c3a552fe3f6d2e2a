// Floating point to the last bit: x87, SSE, rounding modes, denormals, printing and parsing.
// flags: -lm -frounding-math
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <stdint.h>

#include "check.h"

static void bits(const char* what, double value) {
  uint64_t word;
  memcpy(&word, &value, sizeof word);
  printf("%s %016lx %.17g\n", what, word, value);
}

int main(void) {
  static const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
  for (int m = 0; m < 4; ++m) {
    CHECK(fesetround(modes[m]) == 0 && fegetround() == modes[m]);
    volatile double one = 1, three = 3, tiny = DBL_MIN, x = 0.1;
    volatile float f = 1, g = 3;
    volatile long double l = 1;
    bits("1/3", one / three);
    bits("float", f / g);
    bits("denormal", tiny / 7);
    printf("x87 %.21Lg %ld\n", l / 3, lrint(x * 25));
    bits("sqrt", sqrt(three));
    bits("sum", x + 0.2);
    printf("%d %ld\n", (int)nearbyint(-2.5), lrintl(2.5L));
  }
  fesetround(FE_TONEAREST);
  double sum = 0;
  for (int i = 1; i < 2000; ++i)
    sum += sin(i) * exp(1.0 / i) + pow(i, 0.3) + atan2(i, 7) + log(i) + tgamma(i % 20 + 0.5) + cbrt(i) +
           fmod(i, 0.7);
  bits("libm", sum);
  long double x87 = 0;
  for (int i = 1; i < 500; ++i) x87 += sinl(i) + expl(1.0L / i) + sqrtl(i) + powl(i, 0.3L);
  printf("libm x87 %.21Lg\n", x87);
  char text[100];
  snprintf(text, sizeof text, "%.30f %a %Le", 0.1, 1e-310, LDBL_MIN);
  puts(text);
  CHECK(strtod("2.2250738585072011e-308", NULL) < DBL_MIN && strtold("1e4000", NULL) > 1e3999L);
  return 0;
}
