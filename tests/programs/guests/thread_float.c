// Registers of each thread are its own however often they are interrupted: x87, SSE, rounding and exceptions,
// which a new thread inherits; the direction flag.
// flags: -pthread -lm
// native: output
#include <fenv.h>
#include <math.h>

#include "threads.h"

enum { kThreads = 4 };
static const int kRounding[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
static double sums[kThreads];
static long double long_sums[kThreads];
static int inherited;

static void* inherit(void* unused) {
  (void)unused;
  inherited = fegetround();
  return NULL;
}
static void* work(void* argument) {
  const int me = (int)(intptr_t)argument;
  CHECK(fegetround() == FE_TONEAREST);
  CHECK(fesetround(kRounding[me]) == 0);
  volatile double sum = 0;
  volatile long double long_sum = 0;
  // Kept in registers over all of it.
  register double x0 asm("xmm12") = me + 0.5;
  for (int i = 1; i < 20000; ++i) {
    sum += 1.0 / i;
    long_sum += 1.0L / i;
    asm volatile("addsd %0, %0\n\tmulsd %1, %0" : "+x"(x0) : "x"(0.5));
    if (i % 5000 == 0) sched_yield();
  }
  CHECK(x0 == me + 0.5 && fegetround() == kRounding[me]);
  sums[me] = sum, long_sums[me] = long_sum;
  CHECK(fetestexcept(FE_INEXACT) && !fetestexcept(FE_DIVBYZERO));
  if (me == 2) {
    const pthread_t thread = started(inherit, NULL);
    joined(thread);
    CHECK(inherited == FE_UPWARD);
  }
  return NULL;
}

int main(void) {
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  for (int i = 0; i < kThreads; ++i) printf("%a %La\n", sums[i], long_sums[i]);
  CHECK(sums[1] < sums[2] && fegetround() == FE_TONEAREST);
  return 0;
}
