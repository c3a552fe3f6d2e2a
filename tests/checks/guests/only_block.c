// Its only VAssert is a block that fails by itself: nothing else of the library is called.
#include <stdio.h>

#include "vassert.h"

int main(int argc, char** argv) {
  (void)argv;
  VASSERT_BLOCK {
    if (argc == 1) VASSERT_FAIL("argc is %d", argc);
  }
  puts("done");
  return 0;
}
