// Instructions that Unicorn computes differently from hardware, or not at all, executed between two runs of
// the engine: rare ones, for that takes a microsecond. (All of SSE arithmetic and x87 but FCMOVcc is executed
// by the host's processor without leaving the engine: sse_arithmetic.h, x87.h.)
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "machine/registers.h"

namespace aftercheck::soft {

// Executes the instruction at the start of `code` (one that instruction_check.h calls host_executed) and
// moves RIP behind it. Its memory operand has been found accessible. Or the number of the exception that it
// raises instead, with nothing changed: #GP for a misaligned operand or a reserved bit of MXCSR, #MF.
std::optional<uint8_t> execute_on_host(std::span<const uint8_t> code, Registers& registers, FpuState& fpu);

}  // namespace aftercheck::soft
