#include "machine/soft/fault_analysis.h"

namespace aftercheck::soft {

std::span<const uint8_t> code_at(uint64_t address, const PageTables& tables) {
  const auto end = tables.first_forbidden(address, kLongestInstruction, Access::fetch);
  const uint64_t size = end ? *end - address : kLongestInstruction;
  return {reinterpret_cast<const uint8_t*>(address), size};
}

std::optional<Fault> find_fault(const Registers& registers, const PageTables& tables) {
  const std::span<const uint8_t> code = code_at(registers.rip, tables);
  const auto accesses = memory_accesses(code, registers);
  if (!accesses) {
    if (code.size() < kLongestInstruction) return Fault{registers.rip + code.size(), Access::fetch};
    return std::nullopt;
  }
  for (const MemoryAccess& access : *accesses) {
    if (const auto address = tables.first_forbidden(access.address, access.size, access.access))
      return Fault{*address, access.access};
  }
  return std::nullopt;
}

}  // namespace aftercheck::soft
