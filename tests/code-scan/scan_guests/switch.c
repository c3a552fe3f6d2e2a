// Trapped instructions that are reached through jump tables only.
#include "scan_guest.h"

volatile word sink;

__attribute__((noinline)) static word choose(int what, word x) {
  switch (what) {
    case 0:
      return read_tsc();
    case 1:
      sink = x * 3;
      return read_cpuid(7);
    case 2:
      sink = x ^ 0x310f;
      break;
    case 3:
      for (word i = 0; i < x; ++i) sink += read_random();
      break;
    case 4:
      return decoy_immediate();
    case 5:
      sink = read_cpuid(x);
      return 5;
    case 6:
      sink = x / 9;
      return read_tsc() + 6;
    case 7:
      return sink;
    default:
      return x;
  }
  return sink + 1;
}

int main(int argc, char** argv) {
  static const void* const kLabels[] = {&&one, &&two, &&three};  // computed goto, as in interpreters
  word sum = choose(argc, (word)argv[0][0]);
  goto* kLabels[sum % 3];
one:
  sum += read_tsc();
  goto* kLabels[sum % 2];
two:
  sum += read_cpuid(sum);
  goto* kLabels[sum % 3];
three:
  return (int)sum & 1;
}
