#include "tests/machine/random_numbers.h"

#include <cstring>
#include <iterator>

namespace aftercheck {

uint64_t RandomNumbers::integer() {
  switch (below(8)) {
    case 0:
      return below(70);
    case 1:
      return ~below(70);
    case 2:
      return uint64_t{1} << below(64);
    case 3:
      return bits() & 0xffffffff;
    case 4:
      return static_cast<uint64_t>(static_cast<int64_t>(bits()) >> below(64));
    default:
      return bits();
  }
}

uint64_t RandomNumbers::number() {
  if (in(3)) return integer();
  if (in(2)) return uint64_t{single()} << 32 | single();
  static constexpr uint64_t kKinds[] = {0, 0x7ff0000000000000, 0x7ff8000000000001, 0x7ff0000000000001,
                                        1, 0x000fffffffffffff, 0x7fefffffffffffff, 0x3ff0000000000000};
  const uint64_t sign = bits() & (uint64_t{1} << 63);
  if (in(3)) return sign | kKinds[below(std::size(kKinds))];
  if (in(2)) return sign | (0x3ffULL + below(80) - 40) << 52 | (bits() & 0xfffffffffffff);
  return bits();
}

uint32_t RandomNumbers::single() {
  static constexpr uint32_t kKinds[] = {0, 0x7f800000, 0x7fc00001, 0x7f800001,
                                        1, 0x7fffff,   0x7f7fffff, 0x3f800000};
  const auto word = static_cast<uint32_t>(bits());
  if (in(3)) return (word & 0x80000000) | kKinds[below(std::size(kKinds))];
  if (in(2)) return (word & 0x807fffff) | static_cast<uint32_t>(0x7f + below(60) - 30) << 23;
  return word;
}

// SDM vol. 1, figure 10-3
uint32_t RandomNumbers::mxcsr() {
  const auto flags = static_cast<uint32_t>(in(2) ? 0 : below(64));
  const auto masks = static_cast<uint32_t>(in(4) ? below(64) : 0x3f);
  return (in(4) ? 1U << 15 : 0) | static_cast<uint32_t>(below(4)) << 13 | masks << 7 | (in(4) ? 1U << 6 : 0) |
         flags;
}

// SDM vol. 1, figure 8-6
uint16_t RandomNumbers::control_word() {
  const uint64_t precision = in(2) ? 3 : below(4), masks = in(4) ? below(64) : 0x3f;
  return static_cast<uint16_t>(0x40 | masks | precision << 8 | below(4) << 10);
}

FpuState RandomNumbers::fpu() {
  FpuState state = FpuState::initial();
  const auto put = [&state](size_t at, auto value) { std::memcpy(&state.fxsave[at], &value, sizeof value); };
  for (size_t at = 160; at < FpuState::kUsed; at += 8) put(at, number());
  put(24, mxcsr());
  const uint16_t control = control_word();
  put(0, control);
  // Flags of masked exceptions; one time of 16 of any.
  const auto flags = static_cast<unsigned>(in(2) ? 0 : below(64)) & (in(16) ? 0x3fU : control & 0x3fU);
  put(2, static_cast<uint16_t>(flags | (in(4) ? 0x40 : 0) | (bits() & 0x4700) | below(8) << 11));
  put(4, static_cast<uint8_t>(in(2) ? 0 : bits()));
  for (size_t at = 32; at < 160; at += 16) {
    const uint64_t kind = below(8);
    put(at, kind == 0   ? uint64_t{0}
            : kind == 1 ? uint64_t{1} << 63
                        : bits() | (kind < 7 ? uint64_t{1} << 63 : 0));
    put(at + 8, static_cast<uint16_t>((bits() & 0x8000) | (kind == 0   ? 0
                                                           : kind == 1 ? 0x7fff * below(2)
                                                           : kind == 2 ? bits() & 0x7fff
                                                                       : 0x3fff + below(128) - 64)));
  }
  state.settle_x87();
  return state;
}

void RandomNumbers::fill_upper(FpuState& state) {
  if (in(4)) return;
  for (size_t at = 0; at < state.upper.size(); at += 8) {
    const uint64_t word = number();
    std::memcpy(&state.upper[at], &word, sizeof word);
  }
}

}  // namespace aftercheck
