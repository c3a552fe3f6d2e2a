#include "machine/fault_address.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <span>

#include "x86/decode.h"

namespace aftercheck {

std::optional<uint64_t> first_inaccessible(const AddressSpace& space, uint64_t address, uint64_t size,
                                           Access access) {
  const int needed = access == Access::write ? PROT_WRITE : access == Access::fetch ? PROT_EXEC : PROT_READ;
  for (uint64_t done = 0; done < size;) {
    const uint64_t at = address + done;
    uint8_t byte = 0;
    if (!space.accessible(at, 1, needed) || !space.read(at, &byte, 1)) return at;
    done += kPageSize - at % kPageSize;
  }
  return std::nullopt;
}

std::optional<FaultingAccess> find_faulting_access(const AddressSpace& space, const Registers& registers,
                                                   const FpuState* fpu) {
  std::array<uint8_t, kLongestInstruction> code{};
  const auto end = first_inaccessible(space, registers.rip, code.size(), Access::fetch);
  const size_t available = end ? *end - registers.rip : code.size();
  if (!space.read(registers.rip, code.data(), available) || available == 0)
    return FaultingAccess{registers.rip, Access::fetch};
  const auto accesses = memory_accesses({code.data(), available}, registers, fpu);
  if (!accesses) {
    if (available < code.size()) return FaultingAccess{registers.rip + available, Access::fetch};
    return std::nullopt;
  }
  for (const MemoryAccess& access : *accesses)
    if (const auto bad = first_inaccessible(space, access.address, access.size, access.access))
      return FaultingAccess{*bad, access.access};
  return std::nullopt;
}

std::span<const uint8_t> code_at(const AddressSpace& space, uint64_t rip,
                                 std::array<uint8_t, kLongestInstruction>& buffer) {
  if (space.read(rip, buffer.data(), buffer.size())) return buffer;
  const size_t on_page = std::min<uint64_t>(buffer.size(), kPageSize - rip % kPageSize);
  return {buffer.data(), space.read(rip, buffer.data(), on_page) ? on_page : 0};
}

namespace {

bool is_fault(const Exit& exit) {
  return exit.kind == ExitKind::memory_fault ||
         (exit.kind == ExitKind::exception &&
          (exit.vector == vector::kGeneralProtection || exit.vector == vector::kStackFault ||
           exit.vector == vector::kPageFault || exit.vector == vector::kAlignmentCheck));
}

}  // namespace

uint64_t lowest_fault(const AddressSpace& space, const Registers& registers,
                      const std::function<std::optional<FpuState>()>& fpu, uint64_t told, Access access) {
  constexpr std::array kLong = {ZYDIS_MNEMONIC_FLDENV,     ZYDIS_MNEMONIC_FNSTENV,    ZYDIS_MNEMONIC_FRSTOR,
                                ZYDIS_MNEMONIC_FNSAVE,     ZYDIS_MNEMONIC_FXSAVE,     ZYDIS_MNEMONIC_FXSAVE64,
                                ZYDIS_MNEMONIC_FXRSTOR,    ZYDIS_MNEMONIC_FXRSTOR64,  ZYDIS_MNEMONIC_MASKMOVQ,
                                ZYDIS_MNEMONIC_MASKMOVDQU, ZYDIS_MNEMONIC_VMASKMOVDQU};
  constexpr std::array kMasked = {ZYDIS_MNEMONIC_VMASKMOVPS, ZYDIS_MNEMONIC_VMASKMOVPD,
                                  ZYDIS_MNEMONIC_VPMASKMOVD, ZYDIS_MNEMONIC_VPMASKMOVQ};
  std::array<uint8_t, kLongestInstruction> buffer{};
  ZydisDecodedInstruction instruction;
  if (!x86::decode(code_at(space, registers.rip, buffer), instruction)) return told;
  const bool masked = std::ranges::find(kMasked, instruction.mnemonic) != kMasked.end();
  if (!masked && std::ranges::find(kLong, instruction.mnemonic) == kLong.end()) return told;
  const std::optional<FpuState> vectors = masked ? fpu() : std::nullopt;
  const auto found = find_faulting_access(space, registers, vectors ? &*vectors : nullptr);
  return found && found->access == access && found->address < told ? found->address : told;
}

bool settle_fault(const AddressSpace& space, const Exit& exit, Registers& registers) {
  if (!is_fault(exit)) return false;
  std::array<uint8_t, kLongestInstruction> buffer{};
  ZydisDecodedInstruction instruction;
  if (!x86::decode(code_at(space, registers.rip, buffer), instruction) || !x86::is_repeated(instruction))
    return false;
  const uint8_t operation = instruction.opcode & ~uint8_t{1};  // without the bit for the size
  constexpr uint8_t kMovs = 0xa4, kCmps = 0xa6, kStos = 0xaa, kLods = 0xac,
                    kScas = 0xae;  // SDM vol. 2, table A-2
  const bool of_rsi = operation == kMovs || operation == kCmps || operation == kLods;
  const bool of_rdi = operation == kMovs || operation == kCmps || operation == kStos || operation == kScas;
  if (operation == kCmps || operation == kScas) registers.rflags &= ~rflags::kStatus;
  if (instruction.address_width != 32) return true;
  registers.rcx = static_cast<uint32_t>(registers.rcx);
  if (of_rsi) registers.rsi = static_cast<uint32_t>(registers.rsi);
  if (of_rdi) registers.rdi = static_cast<uint32_t>(registers.rdi);
  return true;
}

}  // namespace aftercheck
