// Has state of every kind that a checkpoint must keep, and uses all of it until its end.
#include "calls.h"

static unsigned long table[1024] = {1};  // in a page of the file until it is written

int program(void) {
  volatile unsigned long* shared = map(0, 8192, kRead | kWrite, kShared | kAnonymous, -1);
  volatile unsigned long* hidden = map(0, 4096, kRead | kWrite, kPrivate | kAnonymous, -1);
  const int file = (int)call3(__NR_open, (long)"shared", 0102, 0600);
  call3(__NR_ftruncate, file, 8192, 0);
  volatile unsigned long* mapped = map(0, 8192, kRead | kWrite, kShared, file);
  hidden[5] = 77;
  call3(__NR_mprotect, (long)hidden, 4096, 0);
  unsigned long sum = 0, back = 0;
  unsigned mxcsr = 0x7f80;  // rounds towards zero
  __asm__ volatile("movq %0, %%xmm15\n\tldmxcsr %1\n\tfldpi" : : "r"(0x1234567890abcdefUL), "m"(mxcsr));
  for (unsigned long i = 0; i < 24; ++i) {
    shared[i + i % 2 * 512] = sum;
    mapped[i + i % 3 % 2 * 512] = sum + 1;
    table[i * 40] += cpuid(i & 1) + shared[i / 2];
    __asm__ volatile("movq %%xmm15, %0\n\tpaddq %%xmm15, %%xmm15" : "=r"(back));
    sum = sum * 7 + table[i * 20] + mapped[i / 3] + back;
    tell(1, (long)i);
    if (i % 10 == 9) print_number(sum);
  }
  long rounded;
  __asm__ volatile("fistpll %0\n\tstmxcsr %1" : "=m"(rounded), "=m"(mxcsr));
  call3(__NR_mprotect, (long)hidden, 4096, kRead);
  sum += hidden[5] + (unsigned long)rounded + mxcsr;
  print_number(sum);
  return (int)(sum % 50);
}
