#include "base/processor_pin.h"

#include <unistd.h>

namespace aftercheck {
namespace {

thread_local ProcessorPin* own_pin = nullptr;

}  // namespace

ProcessorPin::ProcessorPin() : thread_(gettid()) { own_pin = this; }

ProcessorPin::~ProcessorPin() {
  clear();
  own_pin = nullptr;
}

void ProcessorPin::set(int processor) {
  const int now = processor_.load(std::memory_order_relaxed);
  if (processor < 0 || processor >= CPU_SETSIZE || processor == now) return;
  if (now < 0 && sched_getaffinity(thread_, sizeof before_, &before_) != 0) return;
  if (!CPU_ISSET(processor, &before_)) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(processor, &one);
  if (sched_setaffinity(thread_, sizeof one, &one) == 0)
    processor_.store(processor, std::memory_order_relaxed);
}

void ProcessorPin::clear() noexcept {
  if (processor_.exchange(-1, std::memory_order_relaxed) >= 0)
    sched_setaffinity(thread_, sizeof before_, &before_);
}

void ProcessorPin::clear_own() noexcept {
  if (own_pin != nullptr) own_pin->clear();
}

}  // namespace aftercheck
