// Loops whose state is nearly the same each time round: one counts in memory only, one in an SSE register
// only, one, long, in RCX only.
#include "calls.h"

enum { tell_memory = 1, tell_vector, tell_counter, tell_begin, tell_sealed, tell_register };

unsigned long counter;

__attribute__((naked, noinline)) static void count_in_memory(void) {
  __asm__(
      "repeat_memory:\n\t"
      "incq counter(%rip)\n\t"
      "cmpq $20, counter(%rip)\n\t"
      "jb repeat_memory\n\t"
      "ret");
}

__attribute__((naked, noinline)) static void count_in_vector(void) {
  __asm__(
      "pxor %xmm0, %xmm0\n\t"
      "mov $1, %eax\n\t"
      "movq %rax, %xmm1\n\t"
      "mov $20, %eax\n\t"
      "movq %rax, %xmm2\n\t"
      "repeat_vector:\n\t"
      "paddq %xmm1, %xmm0\n\t"
      "movdqa %xmm0, %xmm3\n\t"
      "pxor %xmm2, %xmm3\n\t"
      "ptest %xmm3, %xmm3\n\t"
      "jnz repeat_vector\n\t"
      "ret");
}

__attribute__((naked, noinline)) static void count_in_register(void) {
  __asm__(
      "xor %ecx, %ecx\n\t"
      "repeat_register:\n\t"
      "inc %rcx\n\t"
      "cmp $400000, %rcx\n\t"
      "jb repeat_register\n\t"
      "ret");
}

extern const char repeat_memory[], repeat_vector[], repeat_register[];

int program(void) {
  // A page with contents that can't be written any more.
  volatile unsigned long* sealed = map(0, 4096, kRead | kWrite, kPrivate | kAnonymous, -1);
  *sealed = 0x5ea1ed;
  call3(__NR_mprotect, (long)sealed, 4096, kRead);
  tell(tell_sealed, (long)sealed);
  tell(tell_memory, (long)repeat_memory);
  tell(tell_vector, (long)repeat_vector);
  tell(tell_register, (long)repeat_register);
  tell(tell_counter, (long)&counter);
  tell(tell_begin, 0);
  count_in_memory();
  tell(tell_begin, 1);
  count_in_vector();
  tell(tell_begin, 2);
  count_in_register();
  print_number(counter);
  return 3;
}
