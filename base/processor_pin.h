// Keeps a thread on one of the host's processors for a while.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <atomic>

namespace aftercheck {

// Of one thread. Where the kernel refuses (more than CPU_SETSIZE processors, no right to change the thread),
// it runs wherever it did before.
class ProcessorPin {
 public:
  // For the calling thread, which must also destroy it: the pin is cleared then.
  ProcessorPin();
  ~ProcessorPin();
  ProcessorPin(const ProcessorPin&) = delete;
  ProcessorPin& operator=(const ProcessorPin&) = delete;

  // From when it next wakes up the thread runs on that processor, if it may run there at all. Any thread, one
  // at a time.
  void set(int processor);
  // It may run wherever it might before. Any thread, at any time.
  void clear() noexcept;
  bool is_set() const { return processor_.load(std::memory_order_relaxed) >= 0; }

  // Clears that of the calling thread, where it has one. For what it starts next inherits where it may run.
  static void clear_own() noexcept;

 private:
  const pid_t thread_;
  std::atomic<int> processor_{-1};
  cpu_set_t before_{};  // where there is a processor
};

}  // namespace aftercheck
