// Random operands and states, of the kinds at which processors branch.
#pragma once

#include <cstdint>
#include <random>

#include "machine/registers.h"

namespace aftercheck {

class RandomNumbers {
 public:
  explicit RandomNumbers(uint64_t seed) : engine_(seed) {}
  uint64_t bits() { return engine_(); }
  uint64_t below(uint64_t limit) { return engine_() % limit; }
  bool in(uint64_t of, uint64_t times = 1) { return below(of) < times; }

  // Small ones, negative ones, powers of two, any.
  uint64_t integer();
  // Two floats or a double of all kinds: zeros, denormals, infinities, not-a-numbers; or integer().
  uint64_t number();
  uint32_t single();
  // Masks of MXCSR are all set three times of four; any rounding, FTZ and DAZ, no reserved bit.
  uint32_t mxcsr();
  // Of the x87: masks as above, any precision and rounding.
  uint16_t control_word();
  // Invalid encodings in x87 registers too; now and then an x87 exception is pending.
  FpuState fpu();
  // Upper halves of vector registers, as v3 has them; one time of four all are zero.
  void fill_upper(FpuState& state);

 private:
  std::mt19937_64 engine_;
};

}  // namespace aftercheck
