// The legacy vsyscall page (Documentation/arch/x86/x86_64, vsyscall=xonly): three calls at fixed addresses
// beyond all windows, which old static programs jump to. The kernel emulates them, and so does the recorder.
#pragma once

#include <optional>

#include "kvm-recorder/guest_task.h"
#include "kvm-recorder/system_call.h"
#include "machine/exit.h"

namespace aftercheck {

// Answers `fault` where it is a jump to one of them and the host has the page: the registers are set, or the
// guest's filters, which see the system call of the same name (seccomp(2)), have ended the thread.
std::optional<CallOutcome> answer_vsyscall(const Exit& fault, GuestTask& task, Registers& registers);

}  // namespace aftercheck
