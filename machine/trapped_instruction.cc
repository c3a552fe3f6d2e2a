#include "machine/trapped_instruction.h"

#include <cstddef>

namespace aftercheck {
namespace {

constexpr size_t kMaxInstructionLength = 15;  // SDM vol. 2, 2.3.11: longer ones raise #GP

// Prefixes as the processor takes them (SDM vol. 2, 2.1.1 and 2.2.1): of several F2/F3 the last one counts,
// and a REX prefix counts only when nothing stands between it and the opcode.
struct Prefixes {
  size_t length = 0;
  uint8_t rex = 0;     // the whole byte, 0 = none
  uint8_t repeat = 0;  // 0xf2, 0xf3 or 0 = none
  bool operand_size = false;
  bool lock = false;
};

Prefixes read_prefixes(std::span<const uint8_t> code) {
  Prefixes p;
  for (; p.length < code.size(); ++p.length) {
    const uint8_t byte = code[p.length];
    if ((byte & 0xf0) == 0x40) {
      p.rex = byte;
      continue;
    }
    switch (byte) {
      case 0x66:
        p.operand_size = true;
        break;
      case 0xf2:
      case 0xf3:
        p.repeat = byte;
        break;
      case 0xf0:
        p.lock = true;
        break;
      case 0x26:  // segment overrides and address size change neither length nor kind
      case 0x2e:
      case 0x36:
      case 0x3e:
      case 0x64:
      case 0x65:
      case 0x67:
        break;
      default:
        return p;
    }
    p.rex = 0;
  }
  return p;
}

// 0F C7 with a register operand (SDM vol. 2, opcode table A-6, group 9). F2 and F3 are mandatory prefixes
// here and win over 66: with them RDRAND is another instruction or #UD; F3 turns RDSEED into RDPID.
std::optional<TrappedInstruction> decode_group9(const Prefixes& p, uint8_t modrm) {
  if ((modrm >> 6) != 3) return std::nullopt;
  const auto reg = static_cast<uint8_t>((modrm >> 3) & 7);
  TrappedInstruction result;
  if (reg == 6 && p.repeat == 0) {
    result.kind = TrappedKind::rdrand;
  } else if (reg == 7 && p.repeat == 0) {
    result.kind = TrappedKind::rdseed;
  } else if (reg == 7 && p.repeat == 0xf3) {
    result.kind = TrappedKind::rdpid;
  } else {
    return std::nullopt;
  }
  const bool rex_w = (p.rex & 8) != 0, rex_b = (p.rex & 1) != 0;
  result.operand = static_cast<uint8_t>((modrm & 7) | (rex_b ? 8 : 0));
  if (result.kind == TrappedKind::rdpid || rex_w) {
    result.operand_bits = 64;
  } else {
    result.operand_bits = p.operand_size ? 16 : 32;
  }
  return result;
}

// FXSAVE, FXSAVE64: 0F AE /0 with a memory operand, no mandatory prefix (SDM vol. 2, opcode table A-6, group
// 15).
std::optional<TrappedInstruction> decode_fxsave(const Prefixes& p, std::span<const uint8_t> opcode) {
  if (opcode.size() < 3 || p.repeat != 0 || p.operand_size) return std::nullopt;
  const uint8_t modrm = opcode[2];
  const unsigned mod = modrm >> 6, rm = modrm & 7;
  if ((modrm >> 3 & 7) != 0 || mod == 3) return std::nullopt;
  // Displacement sizes: SDM vol. 2, table 2-2 and 2-3.
  size_t length = 3;
  size_t displacement = mod == 1 ? 1 : mod == 2 ? 4 : 0;
  if (mod == 0 && rm == 5) displacement = 4;  // RIP-relative
  if (rm == 4) {
    if (opcode.size() < 4) return std::nullopt;
    ++length;
    if (mod == 0 && (opcode[3] & 7) == 5) displacement = 4;
  }
  length += displacement;
  if (opcode.size() < length) return std::nullopt;
  TrappedInstruction result;
  result.kind = TrappedKind::fxsave;
  result.length = static_cast<uint8_t>(p.length + length);
  return result;
}

}  // namespace

const char* name(TrappedKind kind) {
  static constexpr std::array<const char*, 8> kNames = {"none",   "rdtsc",  "rdtscp", "cpuid",
                                                        "rdrand", "rdseed", "rdpid",  "fxsave"};
  const auto index = static_cast<size_t>(kind);
  return index < kNames.size() ? kNames[index] : "unknown";
}

std::optional<TrappedInstruction> decode_trapped(std::span<const uint8_t> code) {
  if (code.size() > kMaxInstructionLength) code = code.first(kMaxInstructionLength);
  const Prefixes p = read_prefixes(code);
  const auto opcode = code.subspan(p.length);
  if (opcode.size() < 2 || opcode[0] != 0x0f || p.lock) return std::nullopt;  // LOCK: #UD with all of them

  if (opcode[1] == 0xae) return decode_fxsave(p, opcode);
  std::optional<TrappedInstruction> result;
  size_t opcode_length = 3;
  if (opcode[1] == 0x31 || opcode[1] == 0xa2) {
    opcode_length = 2;
    result.emplace().kind = opcode[1] == 0x31 ? TrappedKind::rdtsc : TrappedKind::cpuid;
  } else if (opcode.size() >= 3 && opcode[1] == 0x01 && opcode[2] == 0xf9) {
    result.emplace().kind = TrappedKind::rdtscp;
  } else if (opcode.size() >= 3 && opcode[1] == 0xc7) {
    result = decode_group9(p, opcode[2]);
  }
  if (result) result->length = static_cast<uint8_t>(p.length + opcode_length);
  return result;
}

}  // namespace aftercheck
