// Code made at run time with RDTSC, CPUID and RDRAND in it: behind mprotect, and in pages that stay writable.
#include "jit.h"

// A function that runs `bytes` and returns EDX:EAX.
static void emit(unsigned char* at, const char* bytes, size_t size) {
  static const unsigned char end[] = {0x48, 0xc1, 0xe2, 0x20, 0x89, 0xc0, 0x48, 0x09, 0xd0, 0x5b, 0xc3};
  at[0] = 0x53;                           // push rbx: CPUID changes it
  memcpy(at + 1, "\x89\xf8\x31\xc9", 4);  // mov eax, edi; xor ecx, ecx
  memcpy(at + 5, bytes, size);
  memcpy(at + 5 + size, end, sizeof end);
}

static void run(unsigned char* page, const char* what) {
  for (uint64_t i = 0; i < 3; ++i) printf("%s %lx\n", what, ((Function)page)(i));
}

int main(void) {
  unsigned char* page = code_pages(1, PROT_READ | PROT_WRITE);
  emit(page, "\x0f\x31", 2);
  emit(page + 100, "\x0f\xa2", 2);
  emit(page + 200, "\x0f\xc7\xf0", 3);
  CHECK(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
  run(page, "rdtsc");
  run(page + 100, "cpuid");
  run(page + 200, "rdrand");
  CHECK(mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0);
  CHECK(memcmp(page + 105, "\x0f\xa2", 2) == 0);
  emit(page, "\x0f\xa2", 2);
  CHECK(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
  run(page, "cpuid");
  return 0;
}
