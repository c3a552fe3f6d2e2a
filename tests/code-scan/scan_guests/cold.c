// Trapped instructions in cold parts, which the compiler puts into pieces of their own, entered by jumps only.
#include "scan_guest.h"

volatile word sink;

__attribute__((cold, noinline)) static void complain(word x) { sink = x; }

__attribute__((noinline)) static word work(word x) {
  for (word i = 0; i < x; ++i) {
    if (sink == 17) {
      complain(i);
      sink = read_tsc();
    }
    if (sink == 19) {
      complain(x);
      sink += read_cpuid(1);
      complain(decoy_immediate());
    }
    sink += i;
  }
  return sink;
}

int main(int argc, char** argv) { return (int)work((word)argv[argc - 1][0]) & 1; }
