// Flags: PUSHF and POPF, LAHF and SAHF, the direction and alignment bits across a system call.
#include <stdint.h>
#include <sys/syscall.h>

#include "check.h"

static uint64_t flags(void) {
  uint64_t value;
  __asm__ volatile("pushfq; pop %0" : "=r"(value));
  return value;
}
static void set_flags(uint64_t value) { __asm__ volatile("push %0; popfq" : : "r"(value) : "cc"); }

int main(void) {
  const uint64_t start = flags();
  CHECK((start & 2) && (start & 0x200) && !(start & 0x100));
  set_flags(start | 0x8d5);
  CHECK((flags() & 0x8d5) == 0x8d5);
  set_flags(start | 0x200000);  // ID: CPUID exists
  CHECK(flags() & 0x200000);
  set_flags(start & ~0x200ul);  // interrupts can't be turned off in ring 3
  CHECK(flags() & 0x200);
  long result;
  uint64_t before, after;
  __asm__ volatile("std; pushfq; pop %1; mov $39, %%eax; syscall; pushfq; pop %2; cld"
                   : "=&a"(result), "=&r"(before), "=&r"(after)
                   :
                   : "rcx", "r11", "memory");
  CHECK(result == getpid() && (before & 0x400) && (after & 0x400));
  uint64_t rcx, r11;
  __asm__ volatile("lea 1f(%%rip), %%rbx; mov $39, %%eax; syscall; 1: sub %%rbx, %%rcx; mov %%r11, %1"
                   : "=&c"(rcx), "=&r"(r11)
                   :
                   : "rax", "rbx", "r11", "memory");
  CHECK(rcx == 0 && (r11 & 0x202) == 0x202);  // SYSCALL leaves RIP in RCX and RFLAGS in R11
  uint8_t ah;
  __asm__ volatile("mov $0xd7, %%ah; sahf; lahf; mov %%ah, %0" : "=r"(ah) : : "rax", "cc");
  CHECK(ah == 0xd7);
  printf("%#lx\n", start & 0x246);
  return 0;
}
