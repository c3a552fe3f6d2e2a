// Reads its own code, VAssert's site and all, and prints what it was: it leaves the recording where a check
// has a breakpoint there.
#include <stdio.h>

#include "vassert.h"

__attribute__((noinline)) static int triple(int x) {
  VASSERT(x < 3);
  return x * 3;
}

int main(void) {
  int sum = 0;
  for (int i = 0; i < 5; i++) sum += triple(i);
  unsigned hash = 0;
  const volatile unsigned char* code = (const volatile unsigned char*)triple;
  for (int i = 0; i < 64; i++) hash = hash * 31 + code[i];
  printf("%08x %d\n", hash, sum);
  return 0;
}
