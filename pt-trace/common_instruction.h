// A quick decoder for the instructions that make up nearly all code. Internal to pt-trace.
#pragma once

#include <cstdint>

#include "pt-trace/instruction.h"

namespace aftercheck::pt {

// Decodes the instruction at `bytes` (16 readable bytes) if it is a common one; size 0 means "ask Zydis",
// never "invalid". Exists because a general decoder takes 100 ns an instruction, which made short traces
// slower than libipt's; the tests compare it with Zydis at every byte of all code at hand. 32- and 64-bit
// code only.
Instruction decode_common(const uint8_t* bytes, uint64_t address, ExecMode mode);

}  // namespace aftercheck::pt
