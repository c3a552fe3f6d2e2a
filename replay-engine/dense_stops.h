// Where a guest stops very often, exits cost more than slow execution: on KVM every stop is one or two exits,
// on the soft vCPU it is a call. Measures both, within a segment, and goes on with the cheaper.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>

#include "machine/breakpoints.h"
#include "machine/vcpu.h"

namespace aftercheck {

class DenseStops {
 public:
  // `main` is the replay's own vCPU, on KVM, and `breakpoints` its breakpoints. All must outlive this.
  DenseStops(AddressSpace& space, const CpuModel& cpu, Vcpu& main, Breakpoints& breakpoints)
      : space_(space), cpu_(cpu), main_(main), breakpoints_(breakpoints) {}

  // The vCPU that runs the guest now.
  Vcpu& vcpu() { return on_soft_ ? *soft_ : main_; }
  // A segment begins, on `main`.
  void begin();
  // The guest is at a breakpoint; afterwards vcpu() may be another.
  void stopped();
  // The segment is over: `main` has the guest's state again.
  void finish();
  // The soft vCPU can't execute what comes: `main` goes on, for good. False where it was at work already.
  bool give_up();

 private:
  using Clock = std::chrono::steady_clock;

  AddressSpace& space_;
  const CpuModel& cpu_;
  Vcpu& main_;
  Breakpoints& breakpoints_;
  std::unique_ptr<Machine> machine_;  // made when it is first wanted
  std::unique_ptr<Vcpu> soft_;
  bool on_soft_ = false, gave_up_ = false;
  uint64_t stops_ = 0, blocks_ = 0;  // in the block under way; blocks measured
  Clock::time_point block_start_;
  std::array<double, 2> cost_{};  // seconds a stop, by on_soft_; 0: not known

  bool wants_other();
  void change();
};

}  // namespace aftercheck
