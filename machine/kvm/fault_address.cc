#include "machine/kvm/fault_address.h"

#include <Zydis/Zydis.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>

namespace aftercheck::kvm {
namespace {

// By ZydisRegister value order RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8.. (x86 encoding order).
constexpr std::array<uint64_t Registers::*, 16> kByEncoding = {
    &Registers::rax, &Registers::rcx, &Registers::rdx, &Registers::rbx, &Registers::rsp, &Registers::rbp,
    &Registers::rsi, &Registers::rdi, &Registers::r8,  &Registers::r9,  &Registers::r10, &Registers::r11,
    &Registers::r12, &Registers::r13, &Registers::r14, &Registers::r15};

uint64_t value_of(ZydisRegister reg, const Registers& registers, uint64_t next_rip) {
  if (reg == ZYDIS_REGISTER_NONE) return 0;
  if (reg == ZYDIS_REGISTER_RIP) return next_rip;
  if (reg == ZYDIS_REGISTER_EIP) return static_cast<uint32_t>(next_rip);
  const ZyanI8 id = ZydisRegisterGetId(reg);
  const ZydisRegisterClass kind = ZydisRegisterGetClass(reg);
  if (id < 0 || static_cast<size_t>(id) >= kByEncoding.size()) return 0;
  const uint64_t full = registers.*kByEncoding[static_cast<size_t>(id)];
  return kind == ZYDIS_REGCLASS_GPR32 ? static_cast<uint32_t>(full) : full;
}

std::optional<uint64_t> memory_address(const ZydisDecodedInstruction& instruction,
                                       const ZydisDecodedOperand& operand, const Registers& registers) {
  const uint64_t next_rip = registers.rip + instruction.length;
  const auto& mem = operand.mem;
  uint64_t address = value_of(mem.base, registers, next_rip) +
                     value_of(mem.index, registers, next_rip) * mem.scale +
                     static_cast<uint64_t>(mem.disp.has_displacement ? mem.disp.value : 0);
  if (instruction.address_width == 32) address = static_cast<uint32_t>(address);
  // PUSH and CALL store below the stack pointer that they start with.
  const bool stack_push = operand.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
                          mem.base == ZYDIS_REGISTER_RSP &&
                          (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
  if (stack_push && instruction.mnemonic != ZYDIS_MNEMONIC_POP) address = registers.rsp - operand.size / 8;
  if (mem.segment == ZYDIS_REGISTER_FS) address += registers.fs_base;
  if (mem.segment == ZYDIS_REGISTER_GS) address += registers.gs_base;
  return address;
}

}  // namespace

std::optional<uint64_t> first_inaccessible(const AddressSpace& space, uint64_t address, uint64_t size,
                                           Access access) {
  const int needed = access == Access::write ? PROT_WRITE : access == Access::fetch ? PROT_EXEC : PROT_READ;
  for (uint64_t at = address; at - address < size;) {
    const uint64_t page_left = kPageSize - at % kPageSize;
    const uint64_t piece = std::min(page_left, size - (at - address));
    uint8_t byte = 0;
    if (!space.accessible(at, 1, needed) || !space.read(at, &byte, 1)) return at;
    at += piece;
  }
  return std::nullopt;
}

std::optional<FaultingAccess> find_faulting_access(const AddressSpace& space, const Registers& registers) {
  std::array<uint8_t, ZYDIS_MAX_INSTRUCTION_LENGTH> code{};
  size_t available = 0;
  while (available < code.size() && space.accessible(registers.rip + available, 1, PROT_EXEC) &&
         space.read(registers.rip + available, &code[available], 1))
    ++available;
  if (available == 0) return FaultingAccess{registers.rip, Access::fetch};

  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  ZydisDecodedInstruction instruction;
  std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operands{};
  const ZyanStatus status =
      ZydisDecoderDecodeFull(&decoder, code.data(), available, &instruction, operands.data());
  if (status == ZYDIS_STATUS_NO_MORE_DATA) return FaultingAccess{registers.rip + available, Access::fetch};
  if (!ZYAN_SUCCESS(status)) return std::nullopt;

  for (size_t i = 0; i < instruction.operand_count; ++i) {
    const ZydisDecodedOperand& operand = operands[i];
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || operand.mem.type == ZYDIS_MEMOP_TYPE_AGEN) continue;
    const std::optional<uint64_t> address = memory_address(instruction, operand, registers);
    if (!address) continue;
    const uint64_t size = std::max<uint64_t>(operand.size / 8, 1);
    const bool writes = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    const bool reads = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
    // A read-modify-write faults as a write (its page must be writable before anything happens).
    if (writes)
      if (const auto bad = first_inaccessible(space, *address, size, Access::write))
        return FaultingAccess{*bad, Access::write};
    if (reads && !writes)
      if (const auto bad = first_inaccessible(space, *address, size, Access::read))
        return FaultingAccess{*bad, Access::read};
  }
  // Control transfers fetch from where they go; the processor has then already changed RIP, which was handled
  // above.
  return std::nullopt;
}

}  // namespace aftercheck::kvm
