// Prefixes that processors ignore: the first of F3 and F2, 66 beside them, DS after FS, REX before another
// prefix.
#include <stdint.h>

#include "check.h"

static __thread uint64_t thread_word = 0x1122334455667788;

int main(void) {
  double pair[2] __attribute__((aligned(16))) = {1.5, 2.5}, other[2] __attribute__((aligned(16))) = {10, 20};
  // F3 F2 0F 58: addsd, not addss
  __asm__ volatile("movapd %0, %%xmm0; .byte 0xf3, 0xf2, 0x0f, 0x58, 0x06; movapd %%xmm0, %0"
                   : "+m"(pair)
                   : "S"(other), "m"(other)
                   : "xmm0");
  CHECK(pair[0] == 11.5 && pair[1] == 2.5);
  // 66 F2 0F 58: addsd, not addpd
  __asm__ volatile("movapd %0, %%xmm0; .byte 0x66, 0xf2, 0x0f, 0x58, 0x06; movapd %%xmm0, %0"
                   : "+m"(pair)
                   : "S"(other), "m"(other)
                   : "xmm0");
  CHECK(pair[0] == 21.5 && pair[1] == 2.5);
  // F2 F3 0F 10: movss
  __asm__ volatile("movapd %0, %%xmm0; .byte 0xf2, 0xf3, 0x0f, 0x10, 0x06; movapd %%xmm0, %0"
                   : "+m"(pair)
                   : "S"(other), "m"(other)
                   : "xmm0");
  CHECK(pair[0] == 0 && pair[1] == 0);
  // 48 66 89: mov word, REX.W ignored
  uint64_t word = 0;
  __asm__ volatile(".byte 0x48, 0x66, 0x89, 0x06" ::"S"(&word), "a"(0x123456789abcdefful) : "memory");
  CHECK(word == (0x123456789abcdefful & 0xffff));
  // 64 3E 48 8B 06: FS counts
  uint64_t base, value;
  __asm__ volatile("mov %%fs:0, %0" : "=r"(base));
  __asm__ volatile(".byte 0x64, 0x3e, 0x48, 0x8b, 0x06" : "=a"(value) : "S"((uint64_t)&thread_word - base));
  CHECK(value == thread_word);
  puts("ignored");
  return 0;
}
