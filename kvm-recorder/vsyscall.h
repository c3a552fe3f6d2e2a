// The legacy vsyscall page (Documentation/arch/x86/x86_64, vsyscall=xonly): three calls at fixed addresses
// beyond all windows, which old static programs jump to. The kernel emulates them, and so does the recorder.
#pragma once

#include "kvm-recorder/guest_task.h"
#include "machine/exit.h"

namespace aftercheck {

// Answers `fault` and true, where it is a jump to one of them and the host has the page. The guest's filters
// see the system call of the same name (seccomp(2)).
bool answer_vsyscall(const Exit& fault, GuestTask& task, Registers& registers);

}  // namespace aftercheck
