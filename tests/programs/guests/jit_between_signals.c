// Code that is rewritten in place, without a call, between timer signals which come while it runs: a replay
// on KVM looks for where they came on the soft vCPU, too, which must not run what it knew of the code before.
#include "jit_rounds.h"

int main(void) {
  unsigned char* page = code_pages(1, PROT_READ | PROT_WRITE | PROT_EXEC);
  run_rounds(page, page);
  return 0;
}
