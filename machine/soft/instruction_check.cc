#include "machine/soft/instruction_check.h"

#include <algorithm>
#include <array>
#include <optional>

#include "machine/instruction_standing.h"
#include "machine/soft/shown_code.h"
#include "x86/decode.h"

namespace aftercheck::soft {
namespace {

// Unless an encoding needs another treatment than the rest.
constexpr std::array kHostExecuted = {
    // Of x87, what execution by its own function (x87.h) does not cover.
    ZYDIS_MNEMONIC_FCMOVB,
    ZYDIS_MNEMONIC_FCMOVBE,
    ZYDIS_MNEMONIC_FCMOVE,
    ZYDIS_MNEMONIC_FCMOVNB,
    ZYDIS_MNEMONIC_FCMOVNBE,
    ZYDIS_MNEMONIC_FCMOVNE,
    ZYDIS_MNEMONIC_FCMOVNU,
    ZYDIS_MNEMONIC_FCMOVU,
    // Unicorn 2.0.1 loses these CPUID bits when it combines its CPU model with what it can emulate, and
    // refuses them.
    ZYDIS_MNEMONIC_POPCNT,
    ZYDIS_MNEMONIC_PCLMULQDQ,

    // Unicorn does not refuse reserved bits of MXCSR.
    ZYDIS_MNEMONIC_FXRSTOR,
    ZYDIS_MNEMONIC_FXRSTOR64,

    // Unicorn does not look at where the stack pointer will be.
    ZYDIS_MNEMONIC_ENTER,

    // Unicorn takes their flags from whatever instruction it computed flags of last.
    ZYDIS_MNEMONIC_CMPXCHG8B,
    ZYDIS_MNEMONIC_CMPXCHG16B,
};

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

Treatment treatment_of(const ZydisDecodedInstruction& instruction, std::span<const uint8_t> code) {
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
  const bool listed = std::ranges::find(kHostExecuted, instruction.mnemonic) != kHostExecuted.end();
  return listed ? Treatment::host_executed : Treatment::run;
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
      return {Treatment::run, static_cast<uint8_t>(std::max<size_t>(code.size(), 1)), false};
    return {treatment_of(standing_of_undecodable(status)), 1, true};
  }
  Verdict verdict{treatment_of(instruction, code), instruction.length, true};
  // Under other models they are not invalid, only beyond this backend.
  if (verdict.treatment == Treatment::invalid_opcode && model != CpuModelKind::portable)
    verdict.treatment = Treatment::unsupported;
  if (verdict.treatment == Treatment::run) show(code, instruction, form);
  return verdict;
}

}  // namespace

Verdict judge(std::span<const uint8_t> code, CpuModelKind model, Form* form) {
  Form unused;
  Form& filled = form != nullptr ? *form : unused;
  const Verdict verdict = judge_only(code, model, filled);
  // What is not executable may be anything, and some of it ends the process when it is translated.
  if (hidden_from_unicorn(verdict.treatment) || !verdict.complete) {
    filled.bytes[0] = kUndefined;
    filled.replaced = 1;
  }
  return verdict;
}

bool is_repeated_string(std::span<const uint8_t> code) {
  ZydisDecodedInstruction instruction;
  return x86::decode(code, instruction) && x86::is_repeated(instruction);
}

}  // namespace aftercheck::soft
