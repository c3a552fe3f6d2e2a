#include "machine/fault_address.h"

#include <sys/mman.h>

#include <array>

#include "machine/memory_accesses.h"

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

}  // namespace aftercheck
