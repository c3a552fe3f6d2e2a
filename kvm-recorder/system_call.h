// A system call of the guest, as the recording loop sees it.
#pragma once

#include "kvm-recorder/guest_task.h"
#include "kvm-recorder/process_tree.h"
#include "machine/registers.h"

namespace aftercheck {

// Bookkeeping of the kernel's internal results (include/linux/errno.h): a call that a signal interrupted.
constexpr long kRestartSys = -512;     // restarted if the handler has SA_RESTART, else EINTR
constexpr long kRestartNoHand = -514;  // restarted only if no handler ran

// What a system call did to the guest.
struct CallOutcome {
  enum class Kind {
    result,         // `value` goes to RAX (or is kRestartSys/kRestartNoHand: the signal code decides)
    registers,      // the call set all registers itself (rt_sigreturn, execve, one that a filter stopped)
    exited,         // exit_group: `value` is the status
    thread_exited,  // exit: likewise of this thread, or recording::kThreadKilled + a signal; the process goes
                    // on
    new_process,    // `new_process` is to be made, whose number is the result
    refused,  // it can't be recorded, and the guest must not go on without it: see GuestProcess::unsupported
  };
  Kind kind = Kind::result;
  long value = 0;
  bool fpu_changed = false;  // registers: the FPU state was set too (it is in `fpu`)
  FpuState fpu{};
  NewProcess new_process{};
};

// Makes the system call that `registers` describe (RAX, RDI, RSI, RDX, R10, R8, R9). Never throws for what
// the guest passes; Error(io) only when the recording itself can't be written.
CallOutcome make_system_call(GuestTask& task, Registers& registers);

}  // namespace aftercheck
