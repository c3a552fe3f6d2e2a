#include "machine/soft/shown_code.h"

#include <algorithm>
#include <array>

namespace aftercheck::soft {
namespace {

constexpr uint8_t kRegister = 3;  // ModRM.mod

// The byte at `at` of what is shown, which is the instruction itself as far as nothing is changed.
uint8_t& byte(Form& form, std::span<const uint8_t> code, size_t at) {
  for (; form.replaced <= at; ++form.replaced) form.bytes[form.replaced] = code[form.replaced];
  return form.bytes[at];
}

// Unicorn honours prefixes that processors ignore: the first of F3 and F2 where the last counts, 66 beside
// them where they select the instruction, ES to DS after FS or GS, REX before another prefix or at LAHF,
// where it turns AH into SPL. They are shown to it as repetitions of one that counts. So is F3 of PAUSE,
// after which it would not stop when stepped. Of branches it knows AMD's meaning of 66, Zydis Intel's.
void replace_ignored_prefixes(const ZydisDecodedInstruction& instruction, Form& form) {
  const std::span prefixes(instruction.raw.prefixes, instruction.raw.prefix_count);
  if (prefixes.empty() || instruction.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE) return;
  constexpr uint8_t kOperandSize = 0x66, kDs = 0x3e, kRepeat = 0xf3, kRex = 0x40, kRexMask = 0xf0;
  const bool of_ah =
      instruction.mnemonic == ZYDIS_MNEMONIC_LAHF || instruction.mnemonic == ZYDIS_MNEMONIC_SAHF;
  const bool pause = instruction.mnemonic == ZYDIS_MNEMONIC_PAUSE;
  // Zydis takes every 66 for one that counts. Beside an F3 or F2 that selects an SSE instruction it does not.
  const bool selected = instruction.meta.exception_class != ZYDIS_EXCEPTION_CLASS_NONE &&
                        std::any_of(prefixes.begin(), prefixes.end(), [](const auto& prefix) {
                          return prefix.type == ZYDIS_PREFIX_TYPE_MANDATORY && prefix.value != kOperandSize;
                        });
  const auto counts = [=](const auto& prefix) {
    return prefix.type != ZYDIS_PREFIX_TYPE_IGNORED && !(selected && prefix.value == kOperandSize) &&
           !(of_ah && (prefix.value & kRexMask) == kRex) && !(pause && prefix.value == kRepeat);
  };
  if (std::all_of(prefixes.begin(), prefixes.end(), counts)) return;
  uint8_t filler = kDs;  // means nothing by itself
  for (const auto& prefix : prefixes)
    if (counts(prefix) && (prefix.value & kRexMask) != kRex) filler = prefix.value;
  for (const auto& prefix : prefixes) form.bytes[form.replaced++] = counts(prefix) ? prefix.value : filler;
}

// Opcode and ModRM are those of another instruction, with the same operand in memory.
void show_other_for_x87(std::span<const uint8_t> code, const ZydisDecodedInstruction& instruction,
                        Form& form) {
  constexpr uint8_t kFirst = 0xd8, kLast = 0xdf;
  if (instruction.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || instruction.opcode < kFirst ||
      instruction.opcode > kLast)
    return;
  x86::WithOperands decoded;
  if (!x86::decode(code, decoded)) return;
  form.x87 = x87_instruction(decoded, code);
  if (!form.x87) return;
  const size_t modrm = instruction.raw.modrm.offset;
  const Shown shown = shown_for(*form.x87);
  constexpr uint8_t kRegField = 7 << 3;
  byte(form, code, modrm - 1) = shown.opcode;
  byte(form, code, modrm) =
      form.x87->size == 0 ? shown.modrm
                          : static_cast<uint8_t>((code[modrm] & ~kRegField) | (shown.modrm & kRegField));
}

// Forms that processors execute and Unicorn does not know: register operands of hints, TEST by its other
// number, a REX.R that MOV has no use for, the unused bits of a comparison's predicate.
void show_known_form(std::span<const uint8_t> code, const ZydisDecodedInstruction& instruction, Form& form) {
  const size_t modrm = instruction.raw.modrm.offset;
  switch (instruction.mnemonic) {
    case ZYDIS_MNEMONIC_NOP: {
      constexpr uint8_t kLongNop = 0x1f;
      if (instruction.opcode_map == ZYDIS_OPCODE_MAP_0F) byte(form, code, modrm - 1) = kLongNop;
      return;
    }
    case ZYDIS_MNEMONIC_TEST: {
      constexpr uint8_t kSecond = 1 << 3;
      if ((instruction.opcode | 1) == 0xf7 && instruction.raw.modrm.reg == 1)
        byte(form, code, modrm) ^= kSecond;
      return;
    }
    case ZYDIS_MNEMONIC_MOV: {
      constexpr uint8_t kRexR = 4;
      if ((instruction.opcode | 1) == 0xc7 && instruction.raw.rex.R != 0)
        byte(form, code, instruction.raw.rex.offset) &= static_cast<uint8_t>(~kRexR);
      return;
    }
    case ZYDIS_MNEMONIC_CMPPS:
    case ZYDIS_MNEMONIC_CMPPD:
    case ZYDIS_MNEMONIC_CMPSS:
    case ZYDIS_MNEMONIC_CMPSD: {
      constexpr uint8_t kPredicate = 7;  // SDM vol. 2, CMPPS, table 3-1
      if (instruction.raw.imm[0].size != 0) byte(form, code, instruction.raw.imm[0].offset) &= kPredicate;
      return;
    }
    default:
      return;
  }
}

// Unicorn loads 16 bytes for them, but where it says otherwise.
uint8_t loaded_bytes(const ZydisDecodedInstruction& instruction) {
  if (instruction.raw.modrm.mod == kRegister) return 0;
  switch (instruction.mnemonic) {
    case ZYDIS_MNEMONIC_CVTDQ2PD:
    case ZYDIS_MNEMONIC_CVTPS2PD:
    case ZYDIS_MNEMONIC_CVTPS2PI:
    case ZYDIS_MNEMONIC_CVTTPS2PI:
    case ZYDIS_MNEMONIC_ROUNDSD:
      return 8;
    case ZYDIS_MNEMONIC_ROUNDSS:
      return 4;
    case ZYDIS_MNEMONIC_PUNPCKLBW:  // with MMX registers: 8
    case ZYDIS_MNEMONIC_PUNPCKLWD:
    case ZYDIS_MNEMONIC_PUNPCKLDQ:
      return instruction.meta.isa_ext == ZYDIS_ISA_EXT_MMX ? 4 : 0;
    default:
      return 0;
  }
}

MmxUse mmx_use(const x86::WithOperands& decoded) {
  MmxUse use;
  if (decoded.instruction.mnemonic == ZYDIS_MNEMONIC_EMMS) use.any = true;
  for (const auto& operand : std::span(decoded.operands.data(), decoded.instruction.operand_count)) {
    if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER ||
        ZydisRegisterGetClass(operand.reg.value) != ZYDIS_REGCLASS_MMX)
      continue;
    use.any = true;
    if ((operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0)
      use.target = static_cast<int8_t>(ZydisRegisterGetId(operand.reg.value));
  }
  use.converts = decoded.instruction.meta.category == ZYDIS_CATEGORY_CONVERT;
  return use;
}

}  // namespace

void show(std::span<const uint8_t> code, const ZydisDecodedInstruction& instruction, Form& form) {
  form.keeps_upper_half =
      (instruction.mnemonic == ZYDIS_MNEMONIC_BSF || instruction.mnemonic == ZYDIS_MNEMONIC_BSR) &&
      instruction.operand_width == 32;
  form.loads = loaded_bytes(instruction);
  replace_ignored_prefixes(instruction, form);
  show_other_for_x87(code, instruction, form);
  show_known_form(code, instruction, form);
  x86::WithOperands decoded;
  constexpr std::array kWithVectors = {ZYDIS_ISA_EXT_MMX,  ZYDIS_ISA_EXT_SSE,   ZYDIS_ISA_EXT_SSE2,
                                       ZYDIS_ISA_EXT_SSE3, ZYDIS_ISA_EXT_SSSE3, ZYDIS_ISA_EXT_SSE4};
  if ((instruction.meta.exception_class == ZYDIS_EXCEPTION_CLASS_NONE &&
       std::find(kWithVectors.begin(), kWithVectors.end(), instruction.meta.isa_ext) == kWithVectors.end()) ||
      !x86::decode(code, decoded))
    return;
  form.aligned = instruction.raw.modrm.mod != kRegister && x86::requires_alignment(decoded);
  form.mmx = mmx_use(decoded);
}

}  // namespace aftercheck::soft
