// Log entries in words.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "recording/event.h"

namespace aftercheck::tools {

// "syscall", "memory fault".
const char* name(recording::EventKind kind);
const char* name(recording::SpaceOpKind kind);
// What happened at the exit: "read(3, 0x200000001000, 832)", "rdtsc", "memory fault: write to 0x10".
std::string describe(const recording::Event& event);
// "exited with status 3", "was killed by signal 11 (Segmentation fault)". `event` is of kind end; damaged
// operands are said to be so.
std::string describe_end(const recording::Event& event);
// What a system call returned: "832", "-1 ENOENT (No such file or directory)", "0x200000000000"; "?" for
// calls that do not return. `event` is of kind syscall.
std::string describe_result(const recording::Event& event);
// The same of what a call leaves in RAX; and that, where the event sets it.
std::string describe_result(uint64_t rax);
std::optional<uint64_t> rax_in(const recording::Event& event);
// A signal's name: "SIGSEGV", "signal 40".
std::string signal_name(uint64_t signal);

}  // namespace aftercheck::tools
