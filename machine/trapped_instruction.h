// Instructions that read what differs between runs or hosts, and so must be answered by the host.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "machine/cpu_model.h"

namespace aftercheck {

// Values are part of the recording format: add at the end. FXSAVE is here because processors differ in what
// they store: the mask of MXCSR, the last x87 instruction's opcode and addresses. With the v3 model also
// those that show or use XCR0, which may be more than the model's on the host: XGETBV, XSAVE, XRSTOR; and
// `xsave_other`, which are undefined to the model: XSAVEC, XSAVEOPT, XSAVES, XRSTORS.
enum class TrappedKind : uint8_t {
  none,
  rdtsc,
  rdtscp,
  cpuid,
  rdrand,
  rdseed,
  rdpid,
  fxsave,
  xgetbv,
  xsave,
  xrstor,
  xsave_other,
};
constexpr TrappedKind kLastTrappedKind = TrappedKind::xsave_other;

// One such instruction, decoded.
struct TrappedInstruction {
  TrappedKind kind = TrappedKind::none;
  uint8_t length = 0;  // bytes of the whole instruction, prefixes included; 2..15
  uint8_t operand =
      0;  // rdrand, rdseed, rdpid: destination register, 0 = RAX .. 15 = R15 (instruction encoding)
  uint8_t operand_bits = 0;  // rdrand, rdseed: 16, 32 or 64; rdpid: 64

  friend bool operator==(const TrappedInstruction&, const TrappedInstruction&) = default;
};

const char* name(TrappedKind kind);

// Decodes the instruction at the start of `code`; none when it is something else, nothing that is trapped for
// this model, or the bytes don't suffice.
std::optional<TrappedInstruction> decode_trapped(std::span<const uint8_t> code,
                                                 CpuModelKind model = CpuModelKind::portable);

// What replaces it in guest code: UD2 (SDM vol. 2, 0F 0B) padded with one-byte NOPs to the same length. It
// arrives as #UD with RIP on it on every host, which INT n does not.
constexpr std::array<uint8_t, 2> kTrapBytes = {0x0f, 0x0b};

}  // namespace aftercheck
