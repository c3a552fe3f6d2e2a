// What of a guest's state counts as such: no more, or replays on other machines diverge without need, and no
// less, or they are called faithful without being so.
#include "machine/registers.h"

#include <catch2/catch.hpp>
#include <cstring>

namespace aftercheck {
namespace {

// Offsets in the FXSAVE image: SDM vol. 1, table 10-2.
constexpr size_t kControl = 0, kStatus = 2, kTag = 4, kOpcode = 6, kPointers = 8, kMxcsr = 24, kMask = 28,
                 kSt0 = 32, kXmm0 = 160, kReserved = 416;

template <typename T>
void put(FpuState& state, size_t at, T value) {
  std::memcpy(&state.fxsave[at], &value, sizeof value);
}

// With every x87 register in use, each with bytes of its own.
FpuState full() {
  FpuState state = FpuState::initial();
  put(state, kTag, uint8_t{0xff});
  for (size_t i = 0; i < 8; ++i)
    for (size_t byte = 0; byte < 10; ++byte)
      state.fxsave[kSt0 + i * 16 + byte] = std::byte(16 * i + byte + 1);
  for (size_t i = 0; i < 256; ++i) state.fxsave[kXmm0 + i] = std::byte(i);
  return state;
}

bool differs(const FpuState& a, const FpuState& b) { return canonical_fpu(a) != canonical_fpu(b); }

}  // namespace

TEST_CASE("canonical registers: every one counts, of RFLAGS what no instruction leaves undefined") {
  const Registers none{};
  const RegisterWords zeros = to_words(none);
  constexpr size_t kFlags = register_number(&Registers::rflags);
  for (size_t i = 0; i < kRegisterCount; ++i) {
    if (i == kFlags) continue;
    for (const uint64_t bit : {uint64_t{1}, uint64_t{1} << 63}) {
      RegisterWords words = zeros;
      words[i] ^= bit;
      CHECK(canonical_state(from_words(words)) != canonical_state(none));
    }
  }
  for (const uint64_t flag : {rflags::kDirection, rflags::kAlignmentCheck, rflags::kId}) {
    Registers registers{};
    registers.rflags = flag;
    CHECK(canonical_state(registers) != canonical_state(none));
  }
  Registers registers{};
  registers.rflags = rflags::kStatus;
  CHECK(canonical_state(registers) == canonical_state(none));
}

TEST_CASE("canonical FPU: each byte of SSE registers, MXCSR and the control word counts") {
  const FpuState state = full();
  for (size_t at = kXmm0; at < kReserved; ++at) {
    FpuState other = state;
    other.fxsave[at] ^= std::byte{1};
    CHECK(differs(state, other));
  }
  FpuState other = state;
  put(other, kMxcsr, uint32_t{0x1f80 | 0x6000});  // rounding
  CHECK(differs(state, other));
  other = state;
  put(other, kMxcsr, uint32_t{0x1f00});  // a mask
  CHECK(differs(state, other));
  other = state;
  put(other, kControl, uint16_t{0x27f});
  CHECK(differs(state, other));
  other = state;
  put(other, kControl, uint16_t{0x37e});
  CHECK(differs(state, other));
}

TEST_CASE("canonical FPU: x87 registers count while they are in use, wherever the stack's top is") {
  for (unsigned top = 0; top < 8; ++top) {
    FpuState state = full();
    put(state, kStatus, static_cast<uint16_t>(top << 11));
    CHECK(differs(state, full()) == (top != 0));
    for (unsigned i = 0; i < 8; ++i)
      for (const bool used : {true, false}) {
        // ST(i) is register (top + i) mod 8 of the tags (SDM vol. 1, 8.1.2).
        FpuState one = state;
        const auto bit = static_cast<uint8_t>(1U << ((top + i) & 7));
        put(one, kTag, used ? bit : static_cast<uint8_t>(~bit));
        FpuState other = one;
        other.fxsave[kSt0 + i * 16 + 9] ^= std::byte{0x80};
        CHECK(differs(one, other) == used);
      }
  }
  FpuState fewer = full();
  put(fewer, kTag, uint8_t{0x7f});
  CHECK(differs(full(), fewer));
}

TEST_CASE("canonical FPU: what processors leave differently does not count") {
  const FpuState state = full();
  struct Part {
    size_t at, size;
  };
  for (const Part& part :
       {Part{kOpcode, 2}, Part{kPointers, 16}, Part{kMask, 4}, Part{kReserved, 96}, Part{kSt0 + 10, 6}})
    for (size_t i = 0; i < part.size; ++i) {
      FpuState other = state;
      other.fxsave[part.at + i] ^= std::byte{0xff};
      CHECK_FALSE(differs(state, other));
    }
  FpuState sticky = state;
  put(sticky, kMxcsr, uint32_t{0x1f80 | 0x3f});
  CHECK_FALSE(differs(state, sticky));
}

}  // namespace aftercheck
