// The environment is handed on whole, also what is not a variable at all.
// setup: export GUEST_WORD='some words = here' GUEST_EMPTY=
// expect-output: some words = here
#include "check.h"

int main(void) {
  CHECK(strcmp(getenv("GUEST_EMPTY"), "") == 0);
  puts(getenv("GUEST_WORD"));
  unsigned count = 0;
  for (char** e = environ; *e; ++e) count += (unsigned)strlen(*e);
  printf("%u characters\n", count);
  CHECK(setenv("GUEST_WORD", "changed", 1) == 0 && strcmp(getenv("GUEST_WORD"), "changed") == 0);
  return 0;
}
