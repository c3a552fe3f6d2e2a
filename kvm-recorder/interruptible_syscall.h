// A system call on the host that a guest's signal can interrupt without a race (the technique of musl's
// cancellation points).
#pragma once

#include <atomic>
#include <cstdint>

namespace aftercheck {

// When `waiting` (ThreadSignals::waiting() of the thread that makes the call) is not 0 right before the
// SYSCALL instruction, the call is not made and -EINTR comes back. Returns the kernel's raw result.
long interruptible_syscall(const std::atomic<int>& waiting, long number, uint64_t a, uint64_t b, uint64_t c,
                           uint64_t d, uint64_t e, uint64_t f);

// To be called by a signal handler, with its third argument, when `waiting` of the thread that it interrupts
// is set: if the signal hit between the check and the SYSCALL instruction, the check is made again.
// Async-signal-safe.
void recheck_interrupted_call(void* context);

}  // namespace aftercheck
