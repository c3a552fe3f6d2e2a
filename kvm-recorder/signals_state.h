// What signals.cc and signals_delivery.cc share. Two sides: what host signal handlers note (lock-free), and
// what belongs to the guest's thread, which moves the noted signals over with drain().
#pragma once

#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <optional>

#include "kvm-recorder/signal_frame.h"
#include "kvm-recorder/signals.h"

namespace aftercheck {

constexpr int kSignals = 64;         // _NSIG
constexpr int kFirstRealtime = 32;   // the kernel's SIGRTMIN; the libc keeps 32 and 33 for itself
constexpr size_t kMaxQueued = 1024;  // realtime signals; the kernel's limit is RLIMIT_SIGPENDING
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

// Signals noted by handlers, for one consumer. Standard signals coalesce as the kernel's do; realtime signals
// queue up (a bounded queue after D. Vyukov), and those beyond the bound are lost.
class Arrivals {
 public:
  Arrivals();
  void note(int signal, const siginfo_t& info) noexcept;  // async-signal-safe, any thread
  // Calls take(info) for each noted signal, realtime signals in their order.
  template <typename Take>
  void drain(Take&& take) {
    for (uint64_t ready = ready_.load(); ready != 0; ready = ready_.load()) {
      const int signal = __builtin_ctzll(ready) + 1;
      const siginfo_t info = standard_[signal];
      ready_.fetch_and(~bit_of(signal));
      claimed_.fetch_and(~bit_of(signal));
      take(info);
    }
    siginfo_t info;
    while (pop_realtime(info)) take(info);
  }

 private:
  struct Slot {
    std::atomic<uint64_t> sequence;
    siginfo_t info;
  };
  std::atomic<uint64_t> claimed_{0}, ready_{0};
  std::array<siginfo_t, kFirstRealtime> standard_{};  // by signal number
  std::array<Slot, kMaxQueued> realtime_;
  std::atomic<uint64_t> tail_{0};
  uint64_t head_ = 0;  // consumer's

  bool pop_realtime(siginfo_t& info);
};

struct Signals::State {
  std::atomic<Vcpu*> vcpu{nullptr};
  Arrivals arrivals;

  std::array<KernelSigaction, kSignals + 1> actions{};
  uint64_t blocked = 0, saved = 0;
  bool temporary = false;  // `blocked` holds for one call only; `saved` is the guest's own
  uint64_t pending = 0;    // standard signals in `info`
  std::array<siginfo_t, kFirstRealtime> info{};
  std::array<siginfo_t, kMaxQueued> queue{};  // realtime signals in order of arrival
  size_t queued = 0;
  std::optional<siginfo_t> forced;  // a synchronous signal: comes before everything else
  uint8_t forced_vector = 0;
  uint64_t trap_number = 0, error_code = 0, cr2 = 0;  // of the last fault, as in the kernel's thread_struct
  KernelStack alternate{};

  std::array<struct sigaction, kSignals + 1> host_actions{};  // as they were
  sigset_t host_mask_before{};
  std::optional<uint64_t> host_mask;  // in force now

  // Takes over, gives back.
  void take_over(Vcpu& vcpu);
  void give_back();
  // Makes the host's action for `signal` follow the guest's.
  void apply_host_action(int signal);
  void set_blocked(uint64_t mask);
  // Moves noted signals over and recomputes what deliverable() says. After every change of masks, actions or
  // pending signals.
  void update();

  bool ignored(int signal) const;
  uint64_t pending_bits() const;
  void add(const siginfo_t& arrived);
  // Removes a pending signal of `set` in the kernel's order; nullopt: none.
  std::optional<siginfo_t> dequeue(uint64_t set);
  void discard(int signal);
  // force_sig_info(): can't be blocked or ignored. `vector`: the exception it comes from.
  void force(const siginfo_t& info, uint8_t vector = 0);

  bool on_alternate_stack(uint64_t rsp) const;
  // do_sigaltstack(); `wanted` as the guest gave it.
  long set_alternate_stack(const KernelStack& wanted, uint64_t rsp);
};

}  // namespace aftercheck
