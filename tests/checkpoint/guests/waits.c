// One event whose answer fills the log, with more changed memory behind it than may wait to be written.
#include "calls.h"

enum { kPages = 40000, kRandom = 256 };  // pages

int program(void) {
  unsigned long* memory = map(0, kPages * 4096L, kRead | kWrite, kPrivate | kAnonymous, -1);
  for (unsigned long page = 0; page < kPages; ++page) memory[page * 512] = page + 1;
  call3(__NR_getrandom, (long)memory, kRandom * 4096, 0);
  tell(1, 0);
  print_number(memory[kRandom * 512]);
  return 3;
}
