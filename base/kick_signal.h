// A signal that only interrupts: it gets a thread out of a blocking system call, or out of KVM_RUN.
#pragma once

#include <sys/types.h>

#include <csignal>

namespace aftercheck {

// The libc keeps 32 for pthread_cancel, which nothing here uses, and installs its handler with the first of
// those calls only (33, its other one, it installs with the first thread). So it is the one number that a
// guest can't need on the host: signals 1..31 and 34..64 come from anywhere and are the guest's; 32 and 33 a
// guest's libc sends within its own process, and those never reach the host (kvm-recorder/process_signals.h).
// The libc never blocks it, whatever mask it is given.
constexpr int kKickSignal = 32;

using KickHandler = void (*)(int signal, siginfo_t* info, void* context);

// Installs the handler that kick_thread() needs, if there is none.
void prepare_kicks();
// Installs `handler` for signal 32, instead of one that does nothing; gives the one before. It sees
// everything that arrives under that number.
KickHandler replace_kick_handler(KickHandler handler);
// True for what kick_thread() has sent.
bool is_kick(const siginfo_t& info);
// Interrupts the blocking call of a thread of this process: it ends with EINTR. Async-signal-safe; any
// thread.
void kick_thread(pid_t thread) noexcept;

}  // namespace aftercheck
