// The half of interruptible_syscall (signals.h) that signal handlers use.
#pragma once

namespace aftercheck {

// What interruptible_syscall checks right before the SYSCALL instruction. Async-signal-safe.
void set_signal_waiting(bool waiting);
bool signal_waiting();

// To be called by a handler that has just called set_signal_waiting(true), with its third argument: if the
// signal hit between the check and the SYSCALL instruction, the check is made again.
void recheck_interrupted_call(void* context);

}  // namespace aftercheck
