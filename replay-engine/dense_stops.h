// Where a guest stops very often, exits cost more than slow execution: on KVM every stop is one or two exits,
// in translated code and on the soft vCPU it is a call. Measures KVM and one of them (the soft vCPU where
// there is no translated code), within a segment, and goes on with the cheaper.
#pragma once

#include <array>
#include <cstdint>

#include "replay-engine/guest.h"

namespace aftercheck {

class DenseStops {
 public:
  // The guest's own machine is KVM. It must outlive this.
  explicit DenseStops(Guest& guest) : guest_(guest) {}

  // A segment begins, or goes on after the caller has had the guest; on the guest's own vCPU.
  void begin();
  // The guest is at a breakpoint; afterwards another vCPU may run it.
  void stopped();
  // The segment is over, or the caller gets the guest: its own vCPU has its state again.
  void finish();
  // The other vCPU can't execute what comes: the guest's own goes on, for good. False where it was at work
  // already.
  bool give_up();

 private:
  Guest& guest_;
  bool elsewhere_ = false, gave_up_ = false;
  uint64_t stops_ = 0, blocks_ = 0;  // in the block under way; blocks measured
  double block_start_ = 0;           // thread_seconds()
  std::array<double, 2> cost_{};     // seconds a stop, by elsewhere_; 0: not known

  bool wants_other();
  void change();
};

}  // namespace aftercheck
