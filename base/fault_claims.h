// Signals that a processor raises for what this process executes: SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP.
// Most are nobody's but a debugger's or a sanitizer's; but who runs translated guest code in this process
// claims those that it raises.
#pragma once

#include <csignal>
#include <cstdint>

namespace aftercheck {

// Called in a signal handler, on the thread that the signal hit. True: it was ours, and the thread goes on
// with what `context` (a ucontext_t) now says.
using FaultClaim = bool (*)(int signal, siginfo_t* info, void* context);

// One for the process, for good; installs handlers for all of the signals, where others are installed now,
// that ask it first, on the alternate stack, and pass on what it does not claim to the handlers that were
// there before. Not thread-safe.
void set_fault_claim(FaultClaim claim);
// For handlers installed later: asks it, if there is one.
bool claim_fault(int signal, siginfo_t* info, void* context);

// What to install for `Handle`, which is not to be inlined, where the signal can interrupt guest code. A
// guest may have set the flag that makes misaligned accesses fault (RFLAGS.AC), which the kernel leaves set
// in a handler: it is cleared before anything else, in a function that a sanitizer adds nothing to.
template <void (*Handle)(int signal, siginfo_t* info, void* context)>
__attribute__((no_sanitize("address", "undefined", "thread"))) void interrupting_guest(int signal,
                                                                                       siginfo_t* info,
                                                                                       void* context) {
  constexpr uint64_t kAlignmentCheck = 1 << 18;  // SDM vol. 1, 3.4.3
  __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~kAlignmentCheck);
  Handle(signal, info, context);
}

}  // namespace aftercheck
