#include "kvm-recorder/signal_queues.h"

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

bool RealtimeArrivals::note(ThreadSignals& thread, int signal, const siginfo_t& info) noexcept {
  uint64_t position = tail_.load();
  for (;;) {
    const uint64_t sequence = slots_[position % kMaxNoted].sequence.load();
    if (sequence < position) return false;  // full
    if (sequence == position && tail_.compare_exchange_weak(position, position + 1)) break;
    if (sequence > position) position = tail_.load();
  }
  Slot& slot = slots_[position % kMaxNoted];
  slot.thread = &thread;
  slot.info = info;
  slot.info.si_signo = signal;
  slot.sequence.store(position + 1);
  return position - head_.load() < kMaxNoted / 2;  // other threads' handlers may be about to note theirs
}

bool RealtimeArrivals::pop(ThreadSignals*& thread, siginfo_t& info) {
  const uint64_t head = head_.load();
  Slot& slot = slots_[head % kMaxNoted];
  if (slot.sequence.load() != head + 1) return false;
  thread = slot.thread;
  info = slot.info;
  slot.sequence.store(head + kMaxNoted);
  head_.store(head + 1);
  return true;
}

void PendingSignals::add(const siginfo_t& info) {
  const int signal = info.si_signo;
  if (signal >= kFirstRealtime) {
    realtime_[static_cast<size_t>(signal - kFirstRealtime)].push_back(info);
    realtime_bits_ |= bit_of(signal);
    ++queued_;
  } else if ((standard_ & bit_of(signal)) == 0) {
    standard_ |= bit_of(signal);
    info_[static_cast<size_t>(signal)] = info;
  }
}

void PendingSignals::put_back(const siginfo_t& info) {
  const int signal = info.si_signo;
  if (signal < kFirstRealtime) return add(info);
  realtime_[static_cast<size_t>(signal - kFirstRealtime)].push_front(info);
  realtime_bits_ |= bit_of(signal);
  ++queued_;
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
  std::deque<siginfo_t>& queue = realtime_[static_cast<size_t>(signal - kFirstRealtime)];
  const siginfo_t result = queue.front();
  queue.pop_front();
  if (queue.empty()) realtime_bits_ &= ~bit_of(signal);
  --queued_;
  return result;
}

void PendingSignals::discard(int signal) {
  while (dequeue(bit_of(signal))) {
  }
}

}  // namespace aftercheck
