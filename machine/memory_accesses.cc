#include "machine/memory_accesses.h"

#include <algorithm>
#include <array>

#include "x86/decode.h"

namespace aftercheck {
namespace {

using Decoded = x86::WithOperands;

ZydisRegisterContext context_of(const Registers& r) {
  ZydisRegisterContext context{};
  const std::array<uint64_t, 16> values = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi,
                                           r.r8,  r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
  for (unsigned i = 0; i < values.size(); ++i) {
    context.values[ZYDIS_REGISTER_RAX + i] = values[i];
    context.values[ZYDIS_REGISTER_EAX + i] = static_cast<uint32_t>(values[i]);
  }
  return context;
}

uint64_t value_of(ZydisRegister reg, const ZydisRegisterContext& context) {
  const ZydisRegister enclosing = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
  return context.values[enclosing];
}

// BT, BTC, BTR, BTS with a register as bit offset reach beyond their operand (SDM vol. 2, BT).
uint64_t bit_string_displacement(const Decoded& decoded, const ZydisRegisterContext& context) {
  const ZydisMnemonic mnemonic = decoded.instruction.mnemonic;
  if (mnemonic != ZYDIS_MNEMONIC_BT && mnemonic != ZYDIS_MNEMONIC_BTC && mnemonic != ZYDIS_MNEMONIC_BTR &&
      mnemonic != ZYDIS_MNEMONIC_BTS)
    return 0;
  const ZydisDecodedOperand& offset = decoded.operands[1];
  if (offset.type != ZYDIS_OPERAND_TYPE_REGISTER) return 0;
  auto bits = static_cast<int64_t>(value_of(offset.reg.value, context));
  if (offset.size == 32) bits = static_cast<int32_t>(bits);
  if (offset.size == 16) bits = static_cast<int16_t>(bits);
  const int64_t unit = offset.size;
  const int64_t units = (bits >= 0 ? bits : bits - (unit - 1)) / unit;
  return static_cast<uint64_t>(units * (unit / 8));
}

bool is_stack(const ZydisDecodedOperand& operand) {
  return operand.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && operand.mem.base == ZYDIS_REGISTER_RSP;
}

// PUSH and CALL store below RSP; ENTER's frame pointer too. POP [RSP+x] counts from the RSP after it.
uint64_t stack_displacement(const Decoded& decoded, const ZydisDecodedOperand& operand) {
  const bool hidden_stack = is_stack(operand);
  const bool writes = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
  const uint64_t size = operand.size / 8U;
  if (hidden_stack && writes) return -size;
  if (!hidden_stack && writes && decoded.instruction.mnemonic == ZYDIS_MNEMONIC_POP &&
      operand.mem.base == ZYDIS_REGISTER_RSP)
    return size;
  return 0;
}

// It pushes the frame pointer, the frame pointers that it copies, each after it has been read, and the new
// one; then it looks at where the stack pointer will be (SDM vol. 2, ENTER).
std::vector<MemoryAccess> enter_accesses(const Decoded& decoded, const Registers& registers) {
  constexpr uint64_t kLevels = 32;
  const uint64_t pointer = decoded.instruction.operand_width / 8U;
  const uint64_t frame = decoded.operands[0].imm.value.u, level = decoded.operands[1].imm.value.u % kLevels;
  std::vector<MemoryAccess> result;
  uint64_t top = registers.rsp;
  const auto push = [&] { result.push_back({top -= pointer, pointer, Access::write, true}); };
  push();
  for (uint64_t i = 1; i < level; ++i) {
    result.push_back({registers.rbp - pointer * i, pointer, Access::read, true});
    push();
  }
  if (level != 0) push();
  result.push_back({top - frame, 1, Access::write, true});
  return result;
}

bool does_nothing(const Decoded& decoded, const Registers& registers) {
  if (!x86::is_repeated(decoded.instruction)) return false;
  return decoded.instruction.address_width == 32 ? static_cast<uint32_t>(registers.rcx) == 0
                                                 : registers.rcx == 0;
}

}  // namespace

std::optional<std::vector<MemoryAccess>> memory_accesses(std::span<const uint8_t> code,
                                                         const Registers& registers) {
  std::vector<MemoryAccess> result;
  Decoded decoded;
  if (!x86::decode(code, decoded)) return std::nullopt;
  if (does_nothing(decoded, registers)) return result;
  const ZydisRegisterContext context = context_of(registers);
  const auto first = decoded.operands.begin();
  for (const auto& operand : std::span(first, first + decoded.instruction.operand_count)) {
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || operand.mem.type != ZYDIS_MEMOP_TYPE_MEM) continue;
    uint64_t address = 0;
    if (decoded.instruction.mnemonic == ZYDIS_MNEMONIC_LEAVE)
      address = registers.rbp;
    else if (is_stack(operand))
      address = registers.rsp;  // all of it, whatever the address size (SDM vol. 1, 6.2.5)
    else if (!ZYAN_SUCCESS(ZydisCalcAbsoluteAddressEx(&decoded.instruction, &operand, registers.rip, &context,
                                                      &address)))
      continue;
    if (operand.mem.segment == ZYDIS_REGISTER_FS) address += registers.fs_base;
    if (operand.mem.segment == ZYDIS_REGISTER_GS) address += registers.gs_base;
    address += stack_displacement(decoded, operand);
    address += bit_string_displacement(decoded, context);
    if (decoded.instruction.mnemonic == ZYDIS_MNEMONIC_XLAT) address += registers.rax & 0xff;
    const bool writes = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    result.push_back({address, operand.size / 8U, writes ? Access::write : Access::read,
                      operand.mem.segment == ZYDIS_REGISTER_SS});
  }
  if (decoded.instruction.mnemonic == ZYDIS_MNEMONIC_ENTER) return enter_accesses(decoded, registers);
  std::stable_partition(result.begin(), result.end(),
                        [](const MemoryAccess& a) { return a.access == Access::read; });
  return result;
}

bool is_xsave_or_hypercall(std::span<const uint8_t> code) {
  constexpr std::array kCategories = {ZYDIS_CATEGORY_XSAVE, ZYDIS_CATEGORY_XSAVEOPT, ZYDIS_CATEGORY_VTX};
  ZydisDecodedInstruction instruction;
  return x86::decode(code, instruction) &&
         (instruction.mnemonic == ZYDIS_MNEMONIC_VMMCALL ||
          std::find(kCategories.begin(), kCategories.end(), instruction.meta.category) != kCategories.end());
}

uint64_t port_access_length(std::span<const uint8_t> code) {
  constexpr std::array kCategories = {ZYDIS_CATEGORY_IO, ZYDIS_CATEGORY_IOSTRINGOP};
  ZydisDecodedInstruction instruction;
  if (!x86::decode(code, instruction) ||
      std::find(kCategories.begin(), kCategories.end(), instruction.meta.category) == kCategories.end())
    return 0;
  return instruction.length;
}

bool protection_fault(std::span<const uint8_t> code, const Registers& registers) {
  constexpr std::array kNeverUndefined = {ZYDIS_MNEMONIC_INT, ZYDIS_MNEMONIC_LDMXCSR, ZYDIS_MNEMONIC_FXRSTOR,
                                          ZYDIS_MNEMONIC_FXRSTOR64, ZYDIS_MNEMONIC_CMPXCHG16B};
  Decoded decoded;
  // Other encodings, and UD0 and UD1, are #UD whatever their operands are where the processor lacks them.
  if (!x86::decode(code, decoded) || decoded.instruction.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
      decoded.instruction.mnemonic == ZYDIS_MNEMONIC_UD0 ||
      decoded.instruction.mnemonic == ZYDIS_MNEMONIC_UD1)
    return false;
  if (std::find(kNeverUndefined.begin(), kNeverUndefined.end(), decoded.instruction.mnemonic) !=
      kNeverUndefined.end())
    return true;
  const auto accesses = memory_accesses(code, registers);
  if (!accesses) return false;
  const bool aligned = x86::requires_alignment(decoded);
  return std::any_of(accesses->begin(), accesses->end(), [aligned](const MemoryAccess& access) {
    return !is_canonical(access.address) || (aligned && access.size == 16 && access.address % 16 != 0);
  });
}

}  // namespace aftercheck
