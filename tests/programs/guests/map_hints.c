// Addresses that a program asks for without insisting: given where they are free.
// not-sanitized: its shadow is in the last 2 MiB of the low window
#include <stdint.h>
#include <sys/mman.h>

#include "check.h"

enum { kRw = PROT_READ | PROT_WRITE, kAny = MAP_PRIVATE | MAP_ANONYMOUS };

int main(void) {
  char* wanted = (char*)0x50000000;
  CHECK(mmap(wanted, 1 << 20, kRw, kAny | MAP_32BIT, -1, 0) == wanted);
  wanted[0] = 1;
  char* taken = mmap(wanted, 1 << 20, kRw, kAny | MAP_32BIT, -1, 0);
  CHECK(taken != MAP_FAILED && taken != wanted && (uintptr_t)taken < 1ul << 31 &&
        (uintptr_t)taken >= 1ul << 30);
  taken[0] = 2;
  CHECK(mmap((void*)0x10000000, 1 << 20, kRw, kAny | MAP_32BIT, -1, 0) == (void*)0x10000000);
  CHECK(mmap((void*)0x12345678, 4096, kRw, kAny, -1, 0) == (void*)0x12345000);
  char* high = mmap((void*)0x7fffffff0000, 1 << 20, kRw, kAny | MAP_32BIT, -1, 0);
  CHECK((uintptr_t)high < 1ul << 31);
  char* last = mmap((void*)0x7bf00000, 1 << 16, kRw, kAny | MAP_32BIT, -1, 0);
  CHECK(last == (void*)0x7bf00000);
  last[0xffff] = 3;
  CHECK_ERRNO((long)mmap(wanted, 4096, kRw, kAny | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
  CHECK_ERRNO((long)mmap(NULL, 1ul << 47, kRw, kAny, -1, 0), ENOMEM);
  printf("%p %p\n", (void*)taken, (void*)high);
  return 0;
}
