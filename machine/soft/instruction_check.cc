#include "machine/soft/instruction_check.h"

#include <algorithm>
#include <array>
#include <optional>

#include "machine/instruction_standing.h"
#include "machine/soft/shown_code.h"
#include "x86/decode.h"

namespace aftercheck::soft {
namespace {

struct Rule {
  ZydisMnemonic mnemonic;
  Treatment treatment;
};

constexpr Rule kRules[] = {
    // Of x87, what execution by its own function (x87.h) does not cover.
    {ZYDIS_MNEMONIC_FCMOVB, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVBE, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVE, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVNB, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVNBE, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVNE, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVNU, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FCMOVU, Treatment::host_executed},
    // Unicorn 2.0.1 loses these CPUID bits when it combines its CPU model with what it can emulate, and
    // refuses them.
    {ZYDIS_MNEMONIC_POPCNT, Treatment::host_executed},
    {ZYDIS_MNEMONIC_PCLMULQDQ, Treatment::host_executed},

    // Unicorn does not refuse reserved bits of MXCSR.
    {ZYDIS_MNEMONIC_FXRSTOR, Treatment::host_executed},
    {ZYDIS_MNEMONIC_FXRSTOR64, Treatment::host_executed},

    // Unicorn does not look at where the stack pointer will be.
    {ZYDIS_MNEMONIC_ENTER, Treatment::host_executed},

};

using Table = std::array<Treatment, ZYDIS_MNEMONIC_MAX_VALUE + 1>;

const Table& table() {
  static const Table result = [] {
    Table treatments{};
    for (const Rule& rule : kRules) treatments[rule.mnemonic] = rule.treatment;
    return treatments;
  }();
  return result;
}

bool is_string_compare(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_PCMPESTRI || mnemonic == ZYDIS_MNEMONIC_PCMPESTRM ||
         mnemonic == ZYDIS_MNEMONIC_PCMPISTRI || mnemonic == ZYDIS_MNEMONIC_PCMPISTRM;
}

bool is_bit_scan(const ZydisDecodedInstruction& instruction) {
  return instruction.mnemonic == ZYDIS_MNEMONIC_BSF || instruction.mnemonic == ZYDIS_MNEMONIC_BSR;
}

Treatment treatment_of(Standing standing) {
  switch (standing) {
    case Standing::plain:
      break;
    case Standing::trapped:
      return Treatment::trapped;
    case Standing::cpuid:
      return Treatment::cpuid;
    case Standing::invalid_opcode:
      return Treatment::invalid_opcode;
    case Standing::general_protection:
      return Treatment::general_protection;
    case Standing::debug:
      return Treatment::debug;
    case Standing::breakpoint:
      return Treatment::breakpoint;
    case Standing::kernel_tables:  // the soft vCPU has none
      return Treatment::unsupported;
  }
  return Treatment::run;
}

// Encodings of one mnemonic that need another treatment than the rest.
Treatment refine(const ZydisDecodedInstruction& instruction, std::span<const uint8_t> code,
                 Treatment treatment) {
  if (const Standing general = standing(instruction, code); general != Standing::plain)
    return treatment_of(general);
  // Unicorn sets its flags by the old value; and it clears the upper half of a register that is not changed.
  if (instruction.mnemonic == ZYDIS_MNEMONIC_NEG && (instruction.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0)
    return Treatment::host_executed;
  constexpr uint8_t kRegister = 3;  // ModRM.mod
  if (instruction.mnemonic == ZYDIS_MNEMONIC_CMPXCHG && instruction.operand_width == 32 &&
      instruction.raw.modrm.mod == kRegister)
    return Treatment::host_executed;
  if (instruction.mnemonic == ZYDIS_MNEMONIC_ENTER && instruction.operand_width == 16)
    return Treatment::unsupported;
  constexpr uint64_t kNegative = 0x8000;  // Unicorn takes the number of bytes that RET drops for signed
  if (instruction.mnemonic == ZYDIS_MNEMONIC_RET && instruction.raw.imm[0].value.u >= kNegative)
    return Treatment::unsupported;
  if (is_bit_scan(instruction) && instruction.operand_width == 32 && instruction.address_width == 32)
    return Treatment::host_executed;       // Form::keeps_upper_half would be taken for the address
  constexpr uint8_t kEqualOrdered = 0x0c;  // SDM vol. 2, table 4-2
  if (is_string_compare(instruction.mnemonic) &&
      (code[instruction.length - 1U] & kEqualOrdered) == kEqualOrdered)
    return Treatment::host_executed;
  return treatment;
}

// PUSH ES, undefined in 64-bit mode: Unicorn stops with RIP on it. One byte, so that a block that ends a page
// stays within it.
constexpr uint8_t kUndefined = 0x06;

// These fault or are refused when they are reached, and Unicorn is not to know more of them.
bool hidden_from_unicorn(Treatment treatment) {
  return treatment == Treatment::invalid_opcode || treatment == Treatment::general_protection ||
         treatment == Treatment::unsupported;
}

Verdict judge_only(std::span<const uint8_t> code, CpuModelKind model, Form& form) {
  ZydisDecodedInstruction instruction;
  const ZyanStatus status =
      ZydisDecoderDecodeInstruction(&x86::decoder(), nullptr, code.data(), code.size(), &instruction);
  if (!ZYAN_SUCCESS(status)) {
    if (status == ZYDIS_STATUS_NO_MORE_DATA)
      return {Treatment::run, static_cast<uint8_t>(code.size()), false};
    return {treatment_of(standing_of_undecodable(status)), 1, true};
  }
  Verdict verdict{refine(instruction, code, table()[instruction.mnemonic]), instruction.length, true};
  // Under the host's model they are not invalid, only beyond this backend.
  if (verdict.treatment == Treatment::invalid_opcode && model == CpuModelKind::host)
    verdict.treatment = Treatment::unsupported;
  if (verdict.treatment == Treatment::run) show(code, instruction, form);
  return verdict;
}

}  // namespace

Verdict judge(std::span<const uint8_t> code, CpuModelKind model, Form* form) {
  Form unused;
  Form& filled = form != nullptr ? *form : unused;
  const Verdict verdict = judge_only(code, model, filled);
  if (hidden_from_unicorn(verdict.treatment)) {
    filled.bytes[0] = kUndefined;
    filled.replaced = 1;
  }
  return verdict;
}

std::string disassemble(std::span<const uint8_t> code, uint64_t address) {
  x86::WithOperands decoded;
  ZydisFormatter formatter;
  std::array<char, 256> text{};
  if (!x86::decode(code, decoded) ||
      !ZYAN_SUCCESS(ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL)) ||
      !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &decoded.instruction, decoded.operands.data(),
                                                    decoded.instruction.operand_count, text.data(),
                                                    text.size(), address, nullptr)))
    return "an undecodable instruction";
  return text.data();
}

bool is_repeated_string(std::span<const uint8_t> code) {
  ZydisDecodedInstruction instruction;
  return x86::decode(code, instruction) && x86::is_repeated(instruction);
}

}  // namespace aftercheck::soft
