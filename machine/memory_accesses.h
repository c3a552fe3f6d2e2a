// What an instruction accesses, worked out from its encoding and the registers before it: KVM says that an
// access failed but not which, Unicorn not always the lowest address, and for a read-modify-write "read"
// where processors say "write".
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "machine/exit.h"
#include "machine/registers.h"

namespace aftercheck {

constexpr uint64_t kLongestInstruction = 15;  // SDM vol. 2, 2.3.11

struct MemoryAccess {
  uint64_t address = 0, size = 0;
  Access access = Access::read;
  bool stack = false;  // through SS: by RSP or RBP, unless FS or GS is named (SDM vol. 1, 3.7.4)
};

// The memory that the instruction at the start of `code` would touch, in the order in which a processor
// checks it (reads before writes; what is read and written counts as a write). One iteration for repeated
// string instructions. Gathers and moves under a mask (SDM vol. 2, VPGATHERDD, VMASKMOV, VPMASKMOV) touch
// what vector registers say: without `fpu` no element of the former, and all of the latter. nullopt when the
// bytes are no instruction, or not all of it.
std::optional<std::vector<MemoryAccess>> memory_accesses(std::span<const uint8_t> code,
                                                         const Registers& registers,
                                                         const FpuState* fpu = nullptr);

// The instruction at the start of `code` faulted before its pages were looked at. Is that #GP(0), for where
// its operands are (at a non-canonical address, or not aligned where they must be: SDM vol. 3, 6.15,
// interrupt 13) or for reserved bits in them (vol. 2, LDMXCSR, FXRSTOR), rather than #UD? INT n is, too: its
// gates are ring 0's. `fpu`: as it is then, of a model that has VEX-encoded instructions; to others they are
// undefined whatever their operands are.
bool protection_fault(std::span<const uint8_t> code, const Registers& registers,
                      const FpuState* fpu = nullptr);

// Is the instruction at the start of `code` a gather? A trap may come between two of its elements, with RIP
// still on it (SDM vol. 2, VPGATHERDD).
bool is_gather(std::span<const uint8_t> code);

// IN, OUT, INS or OUTS.
struct PortAccess {
  uint64_t length = 0;  // of the instruction, in bytes
  uint64_t size = 0;    // of what it moves at once
  bool out = false;
  bool string = false;
  bool repeated = false;
  bool wide = true;  // RSI, RDI and RCX count, not ESI, EDI and ECX
};
// The instruction at the start of `code`, if it is one.
std::optional<PortAccess> port_access(std::span<const uint8_t> code);

// Instructions that KVM emulates, or replaces by others, although the guest has none of them (XSAVE without
// CR4.OSXSAVE; hypercalls), and then fails for want of memory. To ring 3 they are undefined.
bool is_xsave_or_hypercall(std::span<const uint8_t> code);

}  // namespace aftercheck
