// As jit_between_signals, but the code is written through another mapping of its memory than it runs in.
// differs-on: soft it does not see that code is written through another mapping (machine/soft/README.md)
#include "jit_rounds.h"

int main(void) {
  const int file = memfd_create("code", MFD_CLOEXEC);
  CHECK(file >= 0 && ftruncate(file, 4096) == 0);
  unsigned char* written = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  unsigned char* runs = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
  CHECK(written != MAP_FAILED && runs != MAP_FAILED);
  run_rounds(written, runs);
  return 0;
}
