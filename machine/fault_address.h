// What a fault tells of an instruction: which access the guest's mappings forbid, and the registers.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "machine/address_space.h"
#include "machine/exit.h"
#include "machine/memory_accesses.h"
#include "machine/registers.h"

namespace aftercheck {

struct FaultingAccess {
  uint64_t address;  // lowest that can't be accessed
  Access access;
};

// The code from `rip` on, as far as it can be read, in `buffer`.
std::span<const uint8_t> code_at(const AddressSpace& space, uint64_t rip,
                                 std::array<uint8_t, kLongestInstruction>& buffer);

// KVM reports an access that the host's mapping forbids without its address (KVM_RUN fails with EFAULT), so
// the instruction at registers.rip is decoded and each of its accesses tried; `fpu`, if any: as it is then,
// for those whose accesses vector registers choose. Nothing when all of them are possible.
std::optional<FaultingAccess> find_faulting_access(const AddressSpace& space, const Registers& registers,
                                                   const FpuState* fpu = nullptr);

// Lowest address in [address, address+size) that can't be accessed so: not mapped, forbidden by its
// protection, or past the end of the mapped file.
std::optional<uint64_t> first_inaccessible(const AddressSpace& space, uint64_t address, uint64_t size,
                                           Access access);

// The same for a fault that the processor has told the address of: of an access that is longer than a
// register, or made under a mask, it may tell any part's (FLDENV begins anywhere, Intel's processors begin
// MASKMOVDQU with its upper half). `fpu` is asked only where vector registers choose what is accessed.
uint64_t lowest_fault(const AddressSpace& space, const Registers& registers,
                      const std::function<std::optional<FpuState>()>& fpu, uint64_t told, Access access);

// Registers where a repeated string instruction has faulted, as all machines leave them; processors differ,
// and the instruction goes on from either:
// - The status flags, of CMPS and SCAS, are cleared. Intel's put those back from before the first turn since
//   they were last interrupted (SDM vol. 2, REP), which depends on when that was; AMD's leave the last
//   turn's.
// - With 32-bit addresses the upper halves of RCX, RSI and RDI, as far as it uses them, are cleared. Intel's
// do
//   so before the first turn, AMD's with it.
// That is for the exits of faults: memory_fault, and exception of vector #GP, #SS, #PF or #AC. True: it was
// such an instruction.
bool settle_fault(const AddressSpace& space, const Exit& exit, Registers& registers);

}  // namespace aftercheck
