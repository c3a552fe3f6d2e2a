// Why control passed from guest to host.
#pragma once

#include <cstdint>
#include <string>

#include "machine/registers.h"
#include "machine/trapped_instruction.h"

namespace aftercheck {

enum class ExitKind : uint8_t {
  syscall,              // SYSCALL. RIP and RCX: the next instruction. R11: canonical (see canonical_r11)
  trapped_instruction,  // an instruction whose answer must come from the host. RIP: on it
  exception,            // `vector` with `error_code`. RIP: on the instruction
  memory_fault,         // an access that the guest's mappings forbid, at `address`. RIP: on the instruction
  breakpoint,           // INT3. RIP: on the INT3 byte
  step,                 // Vcpu::step() has executed one instruction. RIP: the next one
  kick,                 // Vcpu::kick(). RIP: the next instruction; nothing of it was executed
  untrapped,  // only after Vcpu::leave_untrapped(). RIP: the next instruction; nothing of it was executed
};

enum class Access : uint8_t { read, write, fetch };

// Exception vectors that ring-3 code can raise (SDM vol. 3, table 6-1).
namespace vector {
constexpr uint8_t kDivideError = 0, kDebug = 1, kBreakpoint = 3, kOverflow = 4, kBound = 5,
                  kInvalidOpcode = 6, kDeviceNotAvailable = 7, kStackFault = 12, kGeneralProtection = 13,
                  kPageFault = 14, kX87Error = 16, kAlignmentCheck = 17, kSimdError = 19;
}

// Both backends give the same Exit for the same program and inputs: an access to a missing or forbidden page
// is always memory_fault (never exception 14); a non-canonical address is exception 13 with error code 0; an
// instruction that the CPU model lacks is exception 6; a privileged instruction, INT n other than 3 included,
// is exception 13 with error code 0.
struct Exit {
  ExitKind kind = ExitKind::kick;
  uint8_t vector = 0;                // exception
  uint32_t error_code = 0;           // exception
  uint64_t address = 0;              // memory_fault: lowest linear address that could not be accessed
  Access access = Access::read;      // memory_fault
  TrappedInstruction instruction{};  // trapped_instruction

  friend bool operator==(const Exit&, const Exit&) = default;
};

// One line for messages: "memory fault: write to 0x1234", "exception 0 (#DE)".
std::string describe(const Exit& exit);
const char* name(ExitKind kind);

// SYSCALL leaves RFLAGS in R11, undefined status flags included. The guest gets, and the digest sees, this
// instead.
constexpr uint64_t canonical_r11(uint64_t rflags_value) { return rflags_value & ~rflags::kStatus; }

}  // namespace aftercheck
