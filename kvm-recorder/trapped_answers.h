// Answers of the host to trapped instructions.
#pragma once

#include <optional>

#include "kvm-recorder/answer.h"
#include "machine/cpu_model.h"
#include "machine/exit.h"
#include "machine/trapped_instruction.h"
#include "machine/vcpu.h"

namespace aftercheck {

// Does what the instruction would have done on a processor of the given model (RDTSC, RDTSCP: the host's
// counter; RDRAND, RDSEED: random bytes of the host's kernel; RDPID: processor 0; FXSAVE: an image without
// what differs between processors) and moves RIP past it. Returns the access that the guest's memory forbids,
// with nothing done, if there is one.
std::optional<Exit> answer_trapped_instruction(const TrappedInstruction& instruction, const CpuModel& cpu,
                                               Answer& answer, Vcpu& vcpu);

}  // namespace aftercheck
