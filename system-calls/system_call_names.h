// What people call a system call, and what its arguments are: all that one needs for showing a recorded call.
#pragma once

#include <cstdint>
#include <string>

#include "system-calls/system_call_list.h"

namespace aftercheck {

// The list's entry; null for numbers that it doesn't have.
const SystemCallEntry* find_system_call_entry(uint64_t number);
// "read", or "system call 4711".
std::string system_call_name(uint64_t number);
// 6 for calls that the list doesn't have: all that there can be.
unsigned argument_count(uint64_t number);

}  // namespace aftercheck
