// Sets of signals as the kernel has them, one bit each, and what the kernel does with signals by default.
#pragma once

#include <csignal>
#include <cstdint>

#include "base/kick_signal.h"

namespace aftercheck {

constexpr int kSignals = 64;        // _NSIG
constexpr int kFirstRealtime = 32;  // the kernel's SIGRTMIN; the libc keeps 32 and 33 for itself
constexpr size_t kMaxNoted = 1024;  // realtime signals that handlers of ours note between two exits
constexpr uint64_t kRealtime = ~uint64_t{0} << (kFirstRealtime - 1);
constexpr uint64_t kHandlerDefault = 0, kHandlerIgnore = 1;

constexpr uint64_t bit_of(int signal) { return uint64_t{1} << (signal - 1); }
constexpr uint64_t kUnblockable = bit_of(SIGKILL) | bit_of(SIGSTOP);

// Default actions (signal(7)); all others terminate.
constexpr uint64_t kIgnoredByDefault = bit_of(SIGCHLD) | bit_of(SIGCONT) | bit_of(SIGURG) | bit_of(SIGWINCH);
constexpr uint64_t kStopByDefault = bit_of(SIGSTOP) | bit_of(SIGTSTP) | bit_of(SIGTTIN) | bit_of(SIGTTOU);
constexpr uint64_t kCoreByDefault = bit_of(SIGQUIT) | bit_of(SIGILL) | bit_of(SIGTRAP) | bit_of(SIGABRT) |
                                    bit_of(SIGBUS) | bit_of(SIGFPE) | bit_of(SIGSEGV) | bit_of(SIGXCPU) |
                                    bit_of(SIGXFSZ) | bit_of(SIGSYS);
// kernel/signal.c, SYNCHRONOUS_MASK: delivered before others.
constexpr uint64_t kSynchronous =
    bit_of(SIGSEGV) | bit_of(SIGBUS) | bit_of(SIGILL) | bit_of(SIGTRAP) | bit_of(SIGFPE) | bit_of(SIGSYS);

// Of the host: guarded_copy needs the first two, translated guest code all five; and what the libc keeps for
// itself it neither blocks nor lets anybody handle.
constexpr uint64_t kFaultSignals =
    bit_of(SIGSEGV) | bit_of(SIGBUS) | bit_of(SIGFPE) | bit_of(SIGILL) | bit_of(SIGTRAP);
constexpr uint64_t kLibcSignals = bit_of(kKickSignal) | bit_of(33);

// uapi/linux/signal.h
constexpr int kSsAutodisarm = 1 << 31;
// uapi/asm-generic/siginfo.h: sent by the kernel itself.
constexpr int kSiKernel = 0x80;

// The kernel's struct sigaction for x86-64 (arch/x86/include/uapi/asm/signal.h), not libc's.
struct KernelSigaction {
  uint64_t handler = 0;  // SIG_DFL 0, SIG_IGN 1
  uint64_t flags = 0;
  uint64_t restorer = 0;
  uint64_t mask = 0;
};

// The mask of the calling host thread, and what is pending for it or for its process.
uint64_t host_mask();
void set_host_mask(uint64_t mask);  // what must not be blocked on the host stays unblocked
uint64_t host_pending();

}  // namespace aftercheck
