// Instructions that lie across two pages, with the second one changed, protected and replaced.
#include "jit.h"

int main(void) {
  unsigned char* pages = code_pages(2, PROT_READ | PROT_WRITE | PROT_EXEC);
  for (int before = 1; before < 8; ++before) {
    unsigned char* at = pages + 4096 - before;
    emit_add(at, 0x01020304);
    CHECK(((Function)at)(1) == 0x01020305);
    emit_add(at, 0x11121314);
    CHECK(((Function)at)(1) == 0x11121315);
  }
  // Only the second page's part changes, through a mapping put in its place.
  emit_add(pages + 4096 - 4, 0x01010101);  // one byte of the constant on the first page
  CHECK(((Function)(pages + 4096 - 4))(0) == 0x01010101);
  unsigned char* other = code_pages(1, PROT_READ | PROT_WRITE | PROT_EXEC);
  memcpy(other, pages + 4096, 4096);
  other[0] = 2;
  CHECK(mremap(other, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, pages + 4096) == pages + 4096);
  CHECK(((Function)(pages + 4096 - 4))(0) == 0x01010201);
  return 0;
}
