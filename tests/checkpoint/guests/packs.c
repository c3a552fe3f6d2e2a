// Writes one page after the other, with an event behind each, and needs all of them in the end.
#include "calls.h"

enum { kPages = 150, kWords = 512 };

int program(void) {
  unsigned long* memory = map(0, kPages * 4096, kRead | kWrite, kPrivate | kAnonymous, -1);
  unsigned long state = 88172645463325252;
  for (unsigned long page = 0; page < kPages; ++page) {
    for (unsigned long word = 0; word < kWords; ++word) {
      // Xorshift (Marsaglia 2003): no two pages are alike.
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      memory[page * kWords + word] = state;
    }
    tell(1, (long)page);
  }
  unsigned long sum = 0;
  for (unsigned long i = 0; i < (unsigned long)kPages * kWords; ++i) sum = sum * 3 + memory[i];
  print_number(sum);
  return (int)(sum % 50);
}
