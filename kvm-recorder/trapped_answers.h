// Answers of the host to trapped instructions.
#pragma once

#include <optional>

#include "kvm-recorder/answer.h"
#include "machine/cpu_model.h"
#include "machine/exit.h"
#include "machine/trapped_instruction.h"
#include "machine/vcpu.h"

namespace aftercheck {

// answer_trapped() from the host: its counter, and random bytes of its kernel. What is written is logged.
std::optional<Exit> answer_trapped_instruction(const TrappedInstruction& instruction, const CpuModel& cpu,
                                               Answer& answer, Vcpu& vcpu);

}  // namespace aftercheck
