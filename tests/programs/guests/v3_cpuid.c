// record: --cpu v3
// lacked-by: soft --cpu v3
// What CPUID and XGETBV answer, and what the model does not have, which is undefined.
// expect-output: 7 of XCR0, an area of 832 bytes
#include <setjmp.h>
#include <signal.h>

#include "v3.h"

static sigjmp_buf undefined;
static void on_undefined(int signal) { siglongjmp(undefined, signal); }

static uint64_t xgetbv(uint32_t number) {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(number));
  return (uint64_t)high << 32 | low;
}

int main(void) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  __cpuid(1, a, b, c, d);
  CHECK((c & bit_AVX) && (c & bit_FMA) && (c & bit_MOVBE) && (c & bit_F16C) && (c & bit_XSAVE) &&
        (c & bit_OSXSAVE));
  CHECK(!(c & bit_RDRND));
  __cpuid_count(7, 0, a, b, c, d);
  CHECK(b == (bit_BMI | bit_AVX2 | bit_BMI2) && c == 0 && d == 0);
  __cpuid(0x80000001, a, b, c, d);
  CHECK(c & bit_LZCNT);
  __cpuid_count(0xd, 1, a, b, c, d);
  CHECK(a == 0 && b == 0 && c == 0 && d == 0);
  __cpuid_count(0xd, 2, a, b, c, d);
  CHECK(a == 256 && b == 576);
  __cpuid_count(0xd, 0, a, b, c, d);
  CHECK(a == 7 && b == c && d == 0);
  printf("%x of XCR0, an area of %u bytes\n", (unsigned)xgetbv(0), b);
  __builtin_cpu_init();
  CHECK(__builtin_cpu_supports("avx2") && !__builtin_cpu_supports("avx512f"));

  struct sigaction action = {.sa_handler = on_undefined};
  CHECK(sigaction(SIGILL, &action, NULL) == 0 && sigaction(SIGSEGV, &action, NULL) == 0);
  static _Alignas(64) unsigned char area[1024];
  if (sigsetjmp(undefined, 1) == 0) {
    __asm__ volatile("xsavec %0" : "+m"(area) : "a"(7), "d"(0));
    CHECK(!"XSAVEC");
  }
  if (sigsetjmp(undefined, 1) == 0) {
    __asm__ volatile("xsaveopt %0" : "+m"(area) : "a"(7), "d"(0));
    CHECK(!"XSAVEOPT");
  }
  if (sigsetjmp(undefined, 1) == 0) {
    xgetbv(1);
    CHECK(!"XGETBV of 1");
  }
  puts("undefined");
  return 0;
}
