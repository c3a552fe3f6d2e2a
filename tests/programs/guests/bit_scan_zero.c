// BSF and BSR of zero leave all of their target as it was, the 32-bit forms too.
#include <stdint.h>

#include "check.h"

#define SCAN(instruction, source)                                                              \
  ({                                                                                           \
    uint64_t target = 0xffffffff00000005;                                                      \
    __asm__ volatile(instruction : "+a"(target) : "c"(source), "S"(&memory) : "cc", "memory"); \
    target;                                                                                    \
  })

int main(void) {
  const uint64_t kept = 0xffffffff00000005, upper_only = 0x1234567800000000;
  uint32_t memory = 0;
  CHECK(SCAN("bsfl %%ecx, %%eax", 0ul) == kept);
  CHECK(SCAN("bsrl %%ecx, %%eax", 0ul) == kept);
  CHECK(SCAN("bsfl %%ecx, %%eax", upper_only) == kept);
  CHECK(SCAN("bsrl %%ecx, %%eax", upper_only) == kept);
  CHECK(SCAN("bsfq %%rcx, %%rax", 0ul) == kept);
  CHECK(SCAN("bsfl (%%rsi), %%eax", 0ul) == kept);
  CHECK(SCAN("bsfl %%ecx, %%eax", 0x50ul) == 4);
  CHECK(SCAN("bsrl %%ecx, %%eax", 0x50ul) == 6);
  memory = 0x80000000;
  CHECK(SCAN("bsfl (%%rsi), %%eax", 0ul) == 31);
  CHECK(SCAN("bsrl (%%rsi), %%eax", 0ul) == 31);
  puts("kept");
  return 0;
}
