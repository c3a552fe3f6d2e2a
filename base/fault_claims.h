// Signals that a processor raises for what this process executes: SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP.
// Most are nobody's but a debugger's or a sanitizer's; but who runs translated guest code in this process
// claims those that it raises.
#pragma once

#include <csignal>

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

}  // namespace aftercheck
