// RDTSC and CPUID written into memory that is writable and executable at once.
#include "jit.h"

int main(void) {
  unsigned char* page = code_pages(1, PROT_READ | PROT_WRITE | PROT_EXEC);
  static const unsigned char tsc[] = {0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x89, 0xc0, 0x48, 0x09, 0xd0, 0xc3};
  memcpy(page, tsc, sizeof tsc);
  for (int i = 0; i < 3; ++i) printf("rdtsc %lx\n", ((Function)page)(0));
  static const unsigned char id[] = {0x53, 0x89, 0xf8, 0x31, 0xc9, 0x0f, 0xa2, 0x5b, 0xc3};
  memcpy(page, id, sizeof id);
  for (uint64_t i = 0; i < 3; ++i) printf("cpuid %lx\n", ((Function)page)(i));
  return 0;
}
