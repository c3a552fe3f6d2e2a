#include "kvm-recorder/signal_queues.h"

#include <algorithm>

namespace aftercheck {

void StandardArrivals::note(int signal, const siginfo_t& info) noexcept {
  if ((claimed_.fetch_or(bit_of(signal)) & bit_of(signal)) != 0) return;
  siginfo_t& noted = info_[static_cast<size_t>(signal)];
  noted = info;
  noted.si_signo = signal;
  ready_.fetch_or(bit_of(signal));
}

RealtimeArrivals::RealtimeArrivals() {
  for (size_t i = 0; i < slots_.size(); ++i) slots_[i].sequence.store(i);
}

void RealtimeArrivals::note(ThreadSignals& thread, int signal, const siginfo_t& info) noexcept {
  uint64_t position = tail_.load();
  for (;;) {
    const uint64_t sequence = slots_[position % kMaxQueued].sequence.load();
    if (sequence < position) return;  // full
    if (sequence == position && tail_.compare_exchange_weak(position, position + 1)) break;
    if (sequence > position) position = tail_.load();
  }
  Slot& slot = slots_[position % kMaxQueued];
  slot.thread = &thread;
  slot.info = info;
  slot.info.si_signo = signal;
  slot.sequence.store(position + 1);
}

bool RealtimeArrivals::pop(ThreadSignals*& thread, siginfo_t& info) {
  Slot& slot = slots_[head_ % kMaxQueued];
  if (slot.sequence.load() != head_ + 1) return false;
  thread = slot.thread;
  info = slot.info;
  slot.sequence.store(head_ + kMaxQueued);
  ++head_;
  return true;
}

uint64_t PendingSignals::bits() const {
  uint64_t bits = standard_;
  for (const siginfo_t& info : realtime_) bits |= bit_of(info.si_signo);
  return bits;
}

void PendingSignals::add(const siginfo_t& info) {
  const int signal = info.si_signo;
  if (signal >= kFirstRealtime) {
    if (realtime_.size() < kMaxQueued) realtime_.push_back(info);
  } else if ((standard_ & bit_of(signal)) == 0) {
    standard_ |= bit_of(signal);
    info_[static_cast<size_t>(signal)] = info;
  }
}

std::optional<siginfo_t> PendingSignals::dequeue(uint64_t set) {
  const uint64_t found = bits() & set;
  if (found == 0) return std::nullopt;
  const uint64_t first = (found & kSynchronous) != 0 ? found & kSynchronous : found;
  const int signal = __builtin_ctzll(first) + 1;
  if (signal < kFirstRealtime) {
    standard_ &= ~bit_of(signal);
    return info_[static_cast<size_t>(signal)];
  }
  const auto oldest =
      std::ranges::find_if(realtime_, [&](const siginfo_t& info) { return info.si_signo == signal; });
  const siginfo_t result = *oldest;
  realtime_.erase(oldest);
  return result;
}

void PendingSignals::discard(int signal) {
  while (dequeue(bit_of(signal))) {
  }
}

}  // namespace aftercheck
