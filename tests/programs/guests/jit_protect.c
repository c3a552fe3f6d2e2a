// Code is written, made executable, run, made writable again, changed, run again.
#include "jit.h"

int main(void) {
  unsigned char* page = code_pages(1, PROT_READ | PROT_WRITE);
  uint64_t sum = 0;
  for (uint32_t round = 1; round <= 100; ++round) {
    CHECK(mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0);
    emit_add(page, round);
    CHECK(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
    sum = ((Function)page)(sum);
  }
  CHECK(sum == 5050);
  printf("%p\n", (void*)page);
  return 0;
}
