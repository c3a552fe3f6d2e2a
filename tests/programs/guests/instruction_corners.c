// Corners of instructions that an emulator may not have: operands at the end of a page, lengths of strings
// that saturate, one register as both operands, encodings with bits that do not count.
// flags: -msse4.2
#include <stdint.h>
#include <sys/mman.h>

#include "check.h"

static uint16_t words[8] __attribute__((aligned(16))) = {1, 2, 3, 4, 5, 6, 7, 8};

static void page_end(void) {
  char* pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(pages != MAP_FAILED && mprotect(pages + 4096, 4096, PROT_NONE) == 0);
  const float two[2] = {1.5F, 2.5F};
  memcpy(pages + 4088, two, sizeof two);
  double out[2];
  __asm__ volatile("cvtps2pd (%1), %%xmm0; movupd %%xmm0, %0" : "=m"(out) : "r"(pages + 4088) : "xmm0");
  CHECK(out[0] == 1.5 && out[1] == 2.5);
  float one[4] = {0};
  __asm__ volatile("pxor %%xmm0, %%xmm0; roundss $1, (%1), %%xmm0; movups %%xmm0, %0"
                   : "=m"(one)
                   : "r"(pages + 4092)
                   : "xmm0");
  CHECK(one[0] == 2);
}

static void string_lengths(void) {
  static const char text[16] = "abcdefghijklmnop";
  int index = 0;
  for (unsigned i = 0; i < 3; ++i) {
    const int lengths[] = {INT32_MIN, INT32_MAX, -16};
    __asm__ volatile("movdqu (%1), %%xmm0; pcmpestri $0, (%1), %%xmm0"
                     : "=c"(index)
                     : "r"(text), "a"(lengths[i]), "d"(lengths[i])
                     : "xmm0", "cc");
    CHECK(index == 0);
    __asm__ volatile("movdqu (%1), %%xmm1; pcmpestrm $0x40, (%1), %%xmm1; movmskps %%xmm0, %0"
                     : "=r"(index)
                     : "r"(text), "a"(lengths[i]), "d"(lengths[i])
                     : "xmm0", "xmm1", "cc");
    CHECK(index == 15);
  }
}

static void one_register(void) {
  uint16_t sums[8];
  __asm__ volatile("movdqa %1, %%xmm0; phaddw %%xmm0, %%xmm0; movdqu %%xmm0, %0"
                   : "=m"(sums)
                   : "m"(words)
                   : "xmm0");
  CHECK(sums[0] == 3 && sums[3] == 15 && sums[4] == 3 && sums[7] == 15);
}

static void ignored_bits(void) {
  uint64_t out[2];
  // CMPPS by predicate 4 + 8k: only the low three bits count
  __asm__ volatile("movdqa %1, %%xmm0; .byte 0x0f, 0xc2, 0xc0, 0xf8; movdqu %%xmm0, %0"
                   : "=m"(out)
                   : "m"(words)
                   : "xmm0");
  CHECK(out[0] == UINT64_MAX && out[1] == UINT64_MAX);
  uint64_t a = 0x80;
  unsigned char sign = 0;
  __asm__ volatile(".byte 0xf6, 0xc8, 0x80; sets %1" : "+a"(a), "=r"(sign)::"cc");  // TEST AL, 0x80 by /1
  CHECK(sign == 1 && a == 0x80);
  __asm__ volatile(".byte 0x4c, 0xc7, 0xc0, 0x78, 0x56, 0x34, 0x12" : "=a"(a));  // REX.WR MOV RAX, imm32
  CHECK(a == 0x12345678);
  __asm__ volatile(".byte 0x0f, 0x18, 0xc1, 0x0f, 0x0d, 0xe9, 0x0f, 0x19, 0xc0" ::
                       : "cc");  // hints with registers
  a = 0x1122334455667788;
  __asm__ volatile("mov $0x4600, %%eax; sahf; mov %0, %%rax; .byte 0x48, 0x9f; mov %%rax, %0"
                   : "+m"(a)::"rax", "cc");
  CHECK((a & ~UINT64_C(0xff00)) == (0x1122334455667788 & ~UINT64_C(0xff00)) && (a >> 8 & 0xff) == 0x46);
  int64_t negated = 5;
  unsigned char carry = 0, minus = 0;
  __asm__ volatile("lock negq %0; setc %1; sets %2" : "+m"(negated), "=q"(carry), "=q"(minus)::"cc");
  CHECK(negated == -5 && carry == 1 && minus == 1);
  uint64_t target = 0x1111111122222222, accumulator = 5;
  __asm__ volatile("cmpxchgl %2, %k0" : "+r"(target), "+a"(accumulator) : "r"(7) : "cc");
  CHECK(target == 0x1111111122222222 && accumulator == 0x22222222);
}

int main(void) {
  page_end();
  string_lengths();
  one_register();
  ignored_bits();
  puts("corners");
  return 0;
}
