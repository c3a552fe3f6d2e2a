// A program built with AddressSanitizer: its shadow, its heap, and its report of an error.
// flags: -fsanitize=address
// not-sanitized: one process has one shadow
// expect: exit 23
// expect-output: sum 100
#include "check.h"

// LeakSanitizer would need a second process.
const char* __asan_default_options(void);
const char* __asan_default_options(void) { return "detect_leaks=0:exitcode=23"; }

int main(void) {
  char* bytes = malloc(100);
  memset(bytes, 1, 100);
  int sum = 0;
  for (int i = 0; i < 100; ++i) sum += bytes[i];
  printf("sum %d\n", sum);
  fflush(stdout);
  volatile int behind = 100;
  bytes[behind] = 1;  // is reported, with an address that differs from run to run
  puts("the error was not seen");
  return 0;
}
