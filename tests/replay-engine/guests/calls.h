// Guests without a C library: what they do is what stands in their source, and few pages of memory are
// theirs.
#ifndef AFTERCHECK_TESTS_CALLS_H
#define AFTERCHECK_TESTS_CALLS_H

#include <asm/unistd.h>

static inline long call6(long number, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
static inline long call3(long number, long a, long b, long c) { return call6(number, a, b, c, 0, 0, 0); }

static inline void* map(void* at, long size, int protection, int flags, int file) {
  return (void*)call6(__NR_mmap, (long)at, size, protection, flags, file, 0);
}

// An event whose operands tell the test something.
static inline void tell(long what, long value) { call3(__NR_getppid, what, value, 0x7e57); }

static inline void print_number(unsigned long value) {
  char text[17];
  for (int i = 15; i >= 0; --i, value >>= 4) text[i] = "0123456789abcdef"[value & 15];
  text[16] = '\n';
  call3(__NR_write, 1, (long)text, sizeof text);
}

static inline unsigned cpuid(unsigned leaf) {
  unsigned a = leaf, b, c = 0, d;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return a ^ b ^ c ^ d;
}

int program(void);

__attribute__((naked, used)) void _start(void) {
  __asm__("xor %ebp, %ebp\n\tand $-16, %rsp\n\tcall program\n\tmov %eax, %edi\n\tmov $231, %eax\n\tsyscall");
}

enum { kRead = 1, kWrite = 2, kExecute = 4, kShared = 1, kPrivate = 2, kFixed = 0x10, kAnonymous = 0x20 };

#endif
