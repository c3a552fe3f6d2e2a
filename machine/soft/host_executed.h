// Instructions that Unicorn computes differently from hardware, or not at all, executed by the host's
// processor on the guest's state. RCPPS and its kin and the x87 transcendental functions are specified only
// up to an error bound: their results are those of the host, exactly as under KVM. POPCNT, PCLMULQDQ and the
// string comparisons are computed here.
#pragma once

#include <span>
#include <string>

#include "machine/registers.h"

namespace aftercheck::soft {

// Executes the instruction at the start of `code` (one that instruction_check.h calls host_executed) and
// moves RIP behind it. Its memory operand has been found accessible. False, with nothing changed: #GP(0), a
// misaligned operand or a reserved bit of MXCSR. Throws Error(unsupported) for an x87 instruction while x87
// exceptions are unmasked, which the host must not take, and for LDMXCSR of unmasked SIMD exceptions.
bool execute_on_host(std::span<const uint8_t> code, Registers& registers, FpuState& fpu);

}  // namespace aftercheck::soft
