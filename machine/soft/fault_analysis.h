// What an instruction accesses, worked out from its encoding and the registers before it. Unicorn says that
// there was a page fault, but not always the lowest address, and for a read-modify-write it says "read" where
// hardware and exit.h say "write".
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "machine/registers.h"
#include "machine/soft/page_tables.h"

namespace aftercheck::soft {

struct MemoryAccess {
  uint64_t address = 0, size = 0;
  Access access = Access::read;
};

// The memory that the instruction at the start of `code` would touch, in the order in which a processor
// checks it (reads before writes; what is read and written counts as a write). One iteration for repeated
// string instructions.
std::vector<MemoryAccess> memory_accesses(std::span<const uint8_t> code, const Registers& registers);

struct Fault {
  uint64_t address = 0;  // lowest byte that may not be accessed
  Access access = Access::read;
};

// The fault that executing one instruction at registers.rip gives, fetch included; nullopt when it gives
// none. Reads the code at rip itself (guest address = host address).
std::optional<Fault> find_fault(const Registers& registers, const PageTables& tables);

// Up to 15 bytes of code at `address`, as far as they may be executed.
std::span<const uint8_t> code_at(uint64_t address, const PageTables& tables);

}  // namespace aftercheck::soft
