// Exits and events in words, for divergence reports.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "machine/exit.h"
#include "machine/registers.h"
#include "recording/event.h"

namespace aftercheck {

// Name of a system call's number. Null: "system call 42".
using SystemCallName = std::function<std::string(uint64_t number)>;

// What the log has for this exit; `registers` are those at it.
recording::EventKind kind_of(const Exit& exit);
std::vector<uint64_t> operands_of(const Exit& exit, const Registers& registers);

// "write(0x1, 0x55..., 0x10, ...) at 0x401136".
std::string describe_exit(recording::EventKind kind, uint64_t rip, const std::vector<uint64_t>& operands,
                          const SystemCallName& system_call_name);

}  // namespace aftercheck
