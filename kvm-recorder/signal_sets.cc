#include "kvm-recorder/signal_sets.h"

#include <pthread.h>

namespace aftercheck {
namespace {

sigset_t to_host_set(uint64_t mask) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal = 1; signal <= kSignals; ++signal)
    if ((mask & bit_of(signal) & ~kLibcSignals) != 0) sigaddset(&set, signal);
  return set;
}

uint64_t from_host_set(const sigset_t& set) {
  uint64_t mask = 0;
  for (int signal = 1; signal <= kSignals; ++signal)
    if (sigismember(&set, signal) == 1) mask |= bit_of(signal);
  return mask;
}

}  // namespace

uint64_t host_mask() {
  sigset_t set;
  pthread_sigmask(SIG_SETMASK, nullptr, &set);
  return from_host_set(set);
}

void set_host_mask(uint64_t mask) {
  const sigset_t set = to_host_set(mask & ~kFaultSignals);
  pthread_sigmask(SIG_SETMASK, &set, nullptr);
}

uint64_t host_pending() {
  sigset_t set;
  sigemptyset(&set);
  sigpending(&set);
  return from_host_set(set);
}

}  // namespace aftercheck
