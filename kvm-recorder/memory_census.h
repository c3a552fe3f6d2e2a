// Digests of the guest's memory, now and then, so that silent damage in a replay is found near where it
// arose.
#pragma once

#include <chrono>
#include <vector>

#include "machine/address_space.h"
#include "machine/page_map.h"
#include "recording/event.h"

namespace aftercheck {

class MemoryCensus {
 public:
  explicit MemoryCensus(const AddressSpace& space);

  // True when the next digest is due: a second after the last, and never more than about 1 % of the run's
  // time.
  bool due(std::chrono::steady_clock::time_point now) const { return now >= next_; }
  // Digests of all private pages that hold something of the guest's own (anonymous, or copied on write), in
  // stretches of at most 1 MiB.
  std::vector<recording::MemoryDigest> take();
  // In a child of fork(2), before anything else.
  void forked() { pages_ = PageMap(); }

 private:
  const AddressSpace& space_;
  PageMap pages_;
  std::chrono::steady_clock::time_point next_;
};

}  // namespace aftercheck
