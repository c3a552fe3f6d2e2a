// What trapped instructions do, given what they would have got from the processor: for recorder, checks and
// backends alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "machine/cpu_model.h"
#include "machine/trapped_instruction.h"
#include "machine/vcpu.h"

namespace aftercheck {

// CPUID with the leaf and subleaf in RAX and RCX. RIP stays.
void answer_cpuid(const CpuModel& cpu, Registers& registers);

// Where the answers come from.
struct TrappedSources {
  const CpuModel& cpu;
  uint64_t clock = 0;                // for RDTSC, RDTSCP
  std::function<uint64_t()> random;  // for RDRAND, RDSEED: one word
  // For FXSAVE and XSAVE: writes to guest memory as the guest itself would. False, with nothing written,
  // where it may not.
  std::function<bool(uint64_t address, std::span<const std::byte> bytes)> write;
};

// Does what the instruction at RIP would have done and moves RIP past it. RDTSCP and RDPID see processor 0;
// FXSAVE and XSAVE store an image without what differs between processors; XRSTOR sets the vCPU's FPU.
// Returns the exception or the access that the guest's memory forbids, with nothing done, if there is one.
// Throws Error(internal) when it is no trapped instruction at all.
std::optional<Exit> answer_trapped(const TrappedInstruction& instruction, const TrappedSources& sources,
                                   const AddressSpace& space, Vcpu& vcpu);

}  // namespace aftercheck
