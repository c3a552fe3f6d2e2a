// Which fault an instruction gives under the soft vCPU's page tables.
#pragma once

#include <optional>
#include <span>

#include "machine/memory_accesses.h"
#include "machine/registers.h"
#include "machine/soft/page_tables.h"

namespace aftercheck::soft {

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
