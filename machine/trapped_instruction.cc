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

// Which one an opcode with a memory operand is (SDM vol. 2, opcode table A-6: group 15, 0F AE, and group 9,
// 0F C7): none of those here has a mandatory prefix. The 64-bit forms differ by REX.W alone.
TrappedKind kind_of_memory_form(uint8_t opcode, unsigned reg, CpuModelKind model) {
  const bool group15 = opcode == 0xae;
  if (group15 && reg == 0) return TrappedKind::fxsave;
  if (model != CpuModelKind::v3) return TrappedKind::none;
  if (group15) {
    constexpr std::array kGroup15 = {TrappedKind::xsave, TrappedKind::xrstor, TrappedKind::xsave_other};
    return reg >= 4 && reg <= 6 ? kGroup15[reg - 4] : TrappedKind::none;
  }
  return reg >= 3 && reg <= 5 ? TrappedKind::xsave_other : TrappedKind::none;  // XRSTORS, XSAVEC, XSAVES
}

std::optional<TrappedInstruction> decode_memory_form(const Prefixes& p, std::span<const uint8_t> opcode,
                                                     CpuModelKind model) {
  if (opcode.size() < 3 || p.repeat != 0 || p.operand_size) return std::nullopt;
  const uint8_t modrm = opcode[2];
  const unsigned mod = modrm >> 6, rm = modrm & 7;
  if (mod == 3) return std::nullopt;
  const TrappedKind kind = kind_of_memory_form(opcode[1], modrm >> 3 & 7, model);
  if (kind == TrappedKind::none) return std::nullopt;
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
  result.kind = kind;
  result.length = static_cast<uint8_t>(p.length + length);
  return result;
}

}  // namespace

const char* name(TrappedKind kind) {
  static constexpr std::array<const char*, 12> kNames = {"none",   "rdtsc",  "rdtscp", "cpuid",
                                                         "rdrand", "rdseed", "rdpid",  "fxsave",
                                                         "xgetbv", "xsave",  "xrstor", "xsave_other"};
  const auto index = static_cast<size_t>(kind);
  return index < kNames.size() ? kNames[index] : "unknown";
}

std::optional<TrappedInstruction> decode_trapped(std::span<const uint8_t> code, CpuModelKind model) {
  if (code.size() > kMaxInstructionLength) code = code.first(kMaxInstructionLength);
  const Prefixes p = read_prefixes(code);
  const auto opcode = code.subspan(p.length);
  if (opcode.size() < 2 || opcode[0] != 0x0f || p.lock) return std::nullopt;  // LOCK: #UD with all of them

  if (opcode[1] == 0xae) return decode_memory_form(p, opcode, model);
  std::optional<TrappedInstruction> result;
  size_t opcode_length = 3;
  if (opcode[1] == 0x31 || opcode[1] == 0xa2) {
    opcode_length = 2;
    result.emplace().kind = opcode[1] == 0x31 ? TrappedKind::rdtsc : TrappedKind::cpuid;
  } else if (opcode.size() >= 3 && opcode[1] == 0x01 && opcode[2] == 0xf9) {
    result.emplace().kind = TrappedKind::rdtscp;
  } else if (model == CpuModelKind::v3 && opcode.size() >= 3 && opcode[1] == 0x01 && opcode[2] == 0xd0 &&
             p.repeat == 0 && !p.operand_size) {
    result.emplace().kind = TrappedKind::xgetbv;
  } else if (opcode.size() >= 3 && opcode[1] == 0xc7) {
    if (opcode[2] < 0xc0) return decode_memory_form(p, opcode, model);
    result = decode_group9(p, opcode[2]);
  }
  if (result) result->length = static_cast<uint8_t>(p.length + opcode_length);
  return result;
}

}  // namespace aftercheck
