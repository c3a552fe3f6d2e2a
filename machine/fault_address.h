// Which access of an instruction the guest's mappings forbid.
#pragma once

#include <optional>

#include "machine/address_space.h"
#include "machine/exit.h"
#include "machine/registers.h"

namespace aftercheck {

struct FaultingAccess {
  uint64_t address;  // lowest that can't be accessed
  Access access;
};

// KVM reports an access that the host's mapping forbids without its address (KVM_RUN fails with EFAULT), so
// the instruction at registers.rip is decoded and each of its accesses tried; `fpu`, if any: as it is then,
// for those whose accesses vector registers choose. Nothing when all of them are possible.
std::optional<FaultingAccess> find_faulting_access(const AddressSpace& space, const Registers& registers,
                                                   const FpuState* fpu = nullptr);

// Lowest address in [address, address+size) that can't be accessed so: not mapped, forbidden by its
// protection, or past the end of the mapped file.
std::optional<uint64_t> first_inaccessible(const AddressSpace& space, uint64_t address, uint64_t size,
                                           Access access);

}  // namespace aftercheck
