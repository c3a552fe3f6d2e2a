// Answers of the host to trapped instructions.
#pragma once

#include "machine/cpu_model.h"
#include "machine/registers.h"
#include "machine/trapped_instruction.h"

namespace aftercheck {

// Does what the instruction would have done on a processor of the given model (RDTSC, RDTSCP: the host's
// counter; RDRAND, RDSEED: random bytes of the host's kernel; RDPID: processor 0) and moves RIP past it.
void answer_trapped_instruction(const TrappedInstruction& instruction, const CpuModel& cpu,
                                Registers& registers);

}  // namespace aftercheck
