// Code that is written while it may run: by its caller, and by itself a few instructions ahead.
#include "jit.h"

int main(void) {
  unsigned char* page = code_pages(1, PROT_READ | PROT_WRITE | PROT_EXEC);
  uint64_t sum = 0;
  for (uint32_t round = 1; round <= 1000; ++round) {
    emit_add(page, round);
    sum = ((Function)page)(sum);
  }
  CHECK(sum == 500500);
  // mov dword [rip+1], 7; mov eax, 1; ret: the MOV's immediate is what the store changes.
  static const unsigned char self[] = {0xc7, 0x05, 1, 0, 0, 0, 7, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xc3};
  memcpy(page + 64, self, sizeof self);
  CHECK(((Function)(page + 64))(0) == 7);
  // The same in a loop: the immediate counts itself up. inc dword [rip+1]; mov eax, 0; ret
  static const unsigned char counter[] = {0xff, 0x05, 1, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3};
  memcpy(page + 128, counter, sizeof counter);
  for (uint64_t i = 1; i <= 300; ++i) CHECK(((Function)(page + 128))(0) == i);
  return 0;
}
