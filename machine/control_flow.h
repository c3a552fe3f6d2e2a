// What a vCPU tells of the guest's control flow, in the terms of Intel PT: outcomes of conditional branches
// and targets of indirect ones. Where execution starts and stops is known to whoever runs the vCPU. Nothing
// that the host does in between (stops at breakpoints, kicks, single steps, instructions executed by the
// host) is told: it is not the guest's control flow.
#pragma once

#include <cstdint>

namespace aftercheck {

// Called on the thread that runs the vCPU, from inside run() or step(); must not throw and must not touch the
// vCPU. When run() has returned, everything up to the exit has been told.
class ControlFlow {
 public:
  virtual ~ControlFlow() = default;

  // `count` (1 to 48) conditional branches in a row, the oldest in the highest bit, 1: taken. Execution goes
  // on at `next`.
  virtual void conditionals(uint64_t outcomes, unsigned count, uint64_t next) = 0;
  // An indirect jump or call, a return, or a far transfer.
  virtual void indirect(uint64_t target) = 0;
  // The vCPU can't tell how the guest came to `next`: what was told since the last start has a gap here.
  virtual void lost(uint64_t next) = 0;

  // Asked once, by Vcpu::set_control_flow(): whether executed() is wanted, which costs time.
  virtual bool wants_code() const { return false; }
  // The instructions in [start, end) were executed, one after the other. In the order of execution; a
  // repeated string instruction counts once.
  virtual void executed(uint64_t start, uint64_t end) { static_cast<void>(start), static_cast<void>(end); }
};

}  // namespace aftercheck
