// LeakSanitizer looks for leaks when the program ends, from a child process that stops it: that can't be
// recorded, and is refused with the way out.
// flags: -fsanitize=address
// not-sanitized: one process has one shadow
// expect: exit 69
// expect-output: at its end
// says: Set ASAN_OPTIONS=detect_leaks=0
#include "check.h"

int main(void) {
  printf("at its end\n");
  fflush(stdout);
  return 0;
}
