// What the tables of cases are written with.
#pragma once

#include "tests/machine/exit_cases.h"

namespace aftercheck::exit_cases {

inline Exit syscall() { return {.kind = ExitKind::syscall}; }
inline Exit breakpoint() { return {.kind = ExitKind::breakpoint}; }
inline Exit exception(uint8_t number) { return {.kind = ExitKind::exception, .vector = number}; }
inline Exit fault(Access access, uint64_t address) {
  return {.kind = ExitKind::memory_fault, .address = address, .access = access};
}

inline void nothing(Registers&) {}

// What SYSCALL itself changes, for code that begins at kCode.
template <uint64_t length>
void called(Registers& r) {
  r.rcx = kCode + length;
  r.r11 = canonical_r11(r.rflags);
}

// The table of each file.
std::vector<Case> memory_cases();
std::vector<Case> flow_cases();

}  // namespace aftercheck::exit_cases
