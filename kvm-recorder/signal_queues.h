// Signals between their arrival in a handler of ours and their delivery to the guest.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <optional>

#include "kvm-recorder/signal_sets.h"

namespace aftercheck {

class ThreadSignals;

// Standard signals that handlers noted on one thread. They coalesce as the kernel's do.
class StandardArrivals {
 public:
  void note(int signal, const siginfo_t& info) noexcept;  // async-signal-safe, any thread
  // Calls take(info) for each noted signal. One consumer at a time.
  template <typename Take>
  void drain(Take&& take) {
    for (uint64_t ready = ready_.load(); ready != 0; ready = ready_.load()) {
      const int signal = __builtin_ctzll(ready) + 1;
      const siginfo_t info = info_[static_cast<size_t>(signal)];
      ready_.fetch_and(~bit_of(signal));
      claimed_.fetch_and(~bit_of(signal));
      take(info);
    }
  }

 private:
  std::atomic<uint64_t> claimed_{0}, ready_{0};
  std::array<siginfo_t, kFirstRealtime> info_{};  // by signal number
};

// Realtime signals that handlers noted on any thread of the guest, in order (a bounded queue after D.
// Vyukov). Those beyond the bound are lost, so that the handlers must stop the host's kernel before.
class RealtimeArrivals {
 public:
  RealtimeArrivals();
  // False when the bound is near: no more must come before drain(). Async-signal-safe, any thread.
  bool note(ThreadSignals& thread, int signal, const siginfo_t& info) noexcept;
  // Calls take(thread, info) for each. One consumer at a time.
  template <typename Take>
  void drain(Take&& take) {
    ThreadSignals* thread = nullptr;
    siginfo_t info;
    while (pop(thread, info)) take(*thread, info);
  }

 private:
  struct Slot {
    std::atomic<uint64_t> sequence;
    ThreadSignals* thread;
    siginfo_t info;
  };
  std::array<Slot, kMaxNoted> slots_;
  std::atomic<uint64_t> tail_{0};
  std::atomic<uint64_t> head_{0};  // written by the consumer

  bool pop(ThreadSignals*& thread, siginfo_t& info);
};

// What waits for a thread, or for any thread of a process: standard signals once each, realtime signals in
// their order (struct sigpending of the kernel).
class PendingSignals {
 public:
  uint64_t bits() const { return standard_ | realtime_bits_; }
  void add(const siginfo_t& info);
  void put_back(const siginfo_t& info);      // what dequeue() gave last: it is the next again
  size_t queued() const { return queued_; }  // realtime signals
  // Removes a signal of `set`, in the kernel's order (next_signal()); nullopt: none.
  std::optional<siginfo_t> dequeue(uint64_t set);
  void discard(int signal);

 private:
  uint64_t standard_ = 0;  // in info_
  std::array<siginfo_t, kFirstRealtime> info_{};
  // By number, from kFirstRealtime on: many may wait (RLIMIT_SIGPENDING), and each is looked for.
  std::array<std::deque<siginfo_t>, kSignals - kFirstRealtime + 1> realtime_;
  uint64_t realtime_bits_ = 0;
  size_t queued_ = 0;
};

}  // namespace aftercheck
