// What x87 keeps besides its results: sticky flags, stack faults, the last instruction's address, what MMX
// does to it.
#include <stdint.h>

#include "check.h"

static uint16_t status(void) {
  uint16_t word;
  __asm__ volatile("fnstsw %0" : "=a"(word));
  return word;
}

int main(void) {
  enum {
    kInvalid = 1,
    kDenormal = 2,
    kZeroDivide = 4,
    kOverflow = 8,
    kUnderflow = 16,
    kInexact = 32,
    kStack = 64,
    kC1 = 0x200
  };
  const float third = 3, zero = 0;
  const uint64_t tiny = 1;
  float result;
  __asm__ volatile("fninit; fld1; fdivs %0; fstp %%st(0)" ::"m"(third));
  CHECK((status() & 0x7f) == kInexact);
  __asm__ volatile("fnclex; fld1; fdivs %0; fstp %%st(0)" ::"m"(zero));
  CHECK((status() & 0x7f) == kZeroDivide);
  __asm__ volatile("fnclex; flds %0; fdivs %0; fstp %%st(0)" ::"m"(zero));
  CHECK((status() & 0x7f) == kInvalid);
  __asm__ volatile("fnclex; fldl %0; fstp %%st(0)" ::"m"(tiny));
  CHECK((status() & 0x7f) == kDenormal);
  __asm__ volatile("fnclex; fldl %1; fstps %0" : "=m"(result) : "m"(tiny));
  CHECK((status() & 0x7f) == (kDenormal | kUnderflow | kInexact) && result == 0);
  __asm__ volatile("fninit; fstps %0" : "=m"(result));  // of an empty register
  CHECK((status() & (0x7f | kC1)) == (kInvalid | kStack) && result != result);
  __asm__ volatile("fninit; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1");  // the ninth
  CHECK((status() & (0x7f | kC1)) == (kInvalid | kStack | kC1));
  // Reserved halves of an environment are ones.
  uint32_t environment[7];
  __asm__ volatile("fninit; fnstenv %0" : "=m"(environment));
  CHECK(environment[0] == 0xffff037f && environment[1] == 0xffff0000 && environment[2] == 0xffffffff);
  // A register that MMX writes is a not-a-number to x87.
  unsigned char number[10];
  __asm__ volatile("fninit; fld1; movd %1, %%mm0; fstpt %0; fninit" : "=m"(number) : "r"(5));
  CHECK(number[0] == 5 && number[8] == 0xff && number[9] == 0xff);
  puts("status");
  return 0;
}
