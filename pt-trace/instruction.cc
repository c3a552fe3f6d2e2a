#include "pt-trace/instruction.h"

#include <algorithm>

#include "pt-trace/common_instruction.h"
#include "x86/decode.h"

namespace aftercheck::pt {

struct InstructionDecoder::Decoders {
  ZydisDecoder bits16 = x86::make_decoder(x86::Mode::bits16), bits32 = x86::make_decoder(x86::Mode::bits32),
               bits64 = x86::make_decoder(x86::Mode::bits64);
};

InstructionDecoder::InstructionDecoder() : decoders_(std::make_unique<Decoders>()) {}

InstructionDecoder::~InstructionDecoder() = default;

namespace {

InstructionKind kind_of(const ZydisDecodedInstruction& decoded) {
  const bool relative = decoded.raw.imm[0].is_relative != 0;
  const bool far = decoded.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
  switch (decoded.mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_INTO:
      return InstructionKind::far_call;
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_UIRET:
    case ZYDIS_MNEMONIC_RSM:
    case ZYDIS_MNEMONIC_VMLAUNCH:
    case ZYDIS_MNEMONIC_VMRESUME:
      return InstructionKind::far_return;
    case ZYDIS_MNEMONIC_JMP:
      if (far) return InstructionKind::far_call;
      return relative ? InstructionKind::direct_jump : InstructionKind::indirect_jump;
    case ZYDIS_MNEMONIC_CALL:
      if (far) return InstructionKind::far_call;
      return relative ? InstructionKind::direct_call : InstructionKind::indirect_call;
    case ZYDIS_MNEMONIC_RET:
      return far ? InstructionKind::far_return : InstructionKind::near_return;
    case ZYDIS_MNEMONIC_MOV:
      // MOV CR3: 0F 22 with register field 3.
      if (decoded.opcode_map == ZYDIS_OPCODE_MAP_0F && decoded.opcode == 0x22 && decoded.raw.modrm.reg == 3)
        return InstructionKind::write_cr3;
      return InstructionKind::other;
    default:
      // Jcc, LOOPcc, JrCXZ. XBEGIN is relative too, but its jump shows as an abort, not as an outcome.
      if (decoded.meta.category == ZYDIS_CATEGORY_COND_BR && relative &&
          decoded.mnemonic != ZYDIS_MNEMONIC_XBEGIN)
        return InstructionKind::conditional;
      return InstructionKind::other;
  }
}

// 64-bit instructions that are newer than Zydis 4.0 and matter here; size 0 for any other.
//   JMPABS  D5 (REX2, bit 7: map 0, bit 3: not W) A1, 64-bit target. Direct, but processors write a TIP for
//   it, because its target may be amended at run time (Intel APX architecture specification, "JMPABS").
//   ERETU, ERETS  F3 or F2, 0F 01 CA: returns of FRED (Intel FRED specification, "ERETS, ERETU").
Instruction decode_newest(std::span<const uint8_t> bytes) {
  constexpr size_t jmpabs_size = 11;
  size_t at = 0;
  bool plain = true;  // no prefix with which JMPABS is #UD
  uint8_t repeat = 0;
  const auto is = [&](size_t i, uint8_t value) { return i < bytes.size() && bytes[i] == value; };
  for (; at < bytes.size(); ++at) {
    const uint8_t byte = bytes[at];
    const bool segment =
        byte == 0x2e || byte == 0x36 || byte == 0x3e || byte == 0x26 || byte == 0x64 || byte == 0x65;
    if (byte == 0xf2 || byte == 0xf3)
      repeat = byte;
    else if (!segment)
      break;
    plain = plain && segment;
  }
  Instruction result;
  if (plain && is(at, 0xd5) && at + jmpabs_size <= bytes.size() && (bytes[at + 1] & 0x88) == 0 &&
      is(at + 2, 0xa1)) {
    result.kind = InstructionKind::indirect_jump;
    result.size = static_cast<uint8_t>(at + jmpabs_size);
    return result;
  }
  if (repeat == 0) return result;
  if (at < bytes.size() && (bytes[at] & 0xf0) == 0x40) ++at;  // REX
  if (is(at, 0x0f) && is(at + 1, 0x01) && is(at + 2, 0xca)) {
    result.kind = InstructionKind::far_return;
    result.size = static_cast<uint8_t>(at + 3);
  }
  return result;
}

}  // namespace

Instruction InstructionDecoder::decode(std::span<const uint8_t> bytes, const CodeImage& image,
                                       uint64_t address, ExecMode mode) const {
  if (bytes.size() >= 16 && (mode == ExecMode::bits64 || mode == ExecMode::bits32)) {
    const Instruction common = decode_common(bytes.data(), address, mode);
    if (common.size != 0) return common;
  }
  return decode_any(bytes, image, address, mode);
}

// Any instruction, by Zydis but for the newest.
Instruction InstructionDecoder::decode_any(std::span<const uint8_t> bytes, const CodeImage& image,
                                           uint64_t address, ExecMode mode) const {
  uint8_t copy[ZYDIS_MAX_INSTRUCTION_LENGTH];
  if (bytes.size() < sizeof copy) bytes = {copy, image.read(address, copy, sizeof copy)};
  const ZydisDecoder& decoder = mode == ExecMode::bits64   ? decoders_->bits64
                                : mode == ExecMode::bits32 ? decoders_->bits32
                                                           : decoders_->bits16;
  Instruction result;
  if (mode == ExecMode::bits64) {
    result = decode_newest(bytes.first(std::min<size_t>(bytes.size(), ZYDIS_MAX_INSTRUCTION_LENGTH)));
    if (result.size != 0) return result;
  }
  ZydisDecodedInstruction decoded;
  if (bytes.empty() ||
      !ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, bytes.data(), bytes.size(), &decoded)))
    return result;
  result.size = decoded.length;
  result.kind = kind_of(decoded);
  result.vm_entry =
      decoded.mnemonic == ZYDIS_MNEMONIC_VMLAUNCH || decoded.mnemonic == ZYDIS_MNEMONIC_VMRESUME;
  if (result.kind == InstructionKind::conditional || result.kind == InstructionKind::direct_jump ||
      result.kind == InstructionKind::direct_call) {
    result.target = address + decoded.length + static_cast<uint64_t>(decoded.raw.imm[0].value.s);
    // A near branch outside 64-bit mode wraps at its operand size.
    if (mode != ExecMode::bits64) result.target &= decoded.operand_width == 16 ? 0xffffu : 0xffffffffu;
  }
  return result;
}

}  // namespace aftercheck::pt
