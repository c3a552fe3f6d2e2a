// Trapped instructions in exception handlers and clean-ups, which no branch leads to.
#include <stdexcept>

#include "scan_guest.h"

namespace {
volatile word sink;

struct Cleanup {
  ~Cleanup() { sink = sink + read_tsc(); }
};

__attribute__((noinline)) void may_throw(word x) {
  if (x == 'x') throw std::runtime_error("x");
  if (x == 'y') throw 7;
  sink = x;
}

__attribute__((noinline)) word handle(word x) {
  Cleanup cleanup;
  try {
    may_throw(x);
  } catch (const std::exception&) {
    return read_cpuid(x);
  } catch (int value) {
    sink = decoy_immediate();
    return read_random() + static_cast<word>(value);
  }
  return 0;
}
}  // namespace

int main(int, char** argv) { return static_cast<int>(handle(static_cast<word>(argv[0][0]))) & 1; }
