// What a vCPU tells of the guest's control flow, in the terms of Intel PT: outcomes of conditional branches
// and targets of indirect ones. Where execution starts and stops is known to whoever runs the vCPU. Nothing
// that the host does in between (stops at breakpoints, kicks, single steps, instructions executed by the
// host) is told: it is not the guest's control flow.
#pragma once

#include <cstdint>
#include <span>

#include "base/branch_run.h"

namespace aftercheck {

// Called on the thread that runs the vCPU, from inside run() or step(), up to a thousand blocks behind the
// guest; must not throw and must not touch the vCPU. When run() has returned, everything up to the exit has
// been told.
class ControlFlow {
 public:
  virtual ~ControlFlow() = default;

  // In the order of execution.
  virtual void branches(std::span<const BranchRun> runs) = 0;
  // The vCPU can't tell how the guest came to `next`: what was told since the last start has a gap here.
  virtual void lost(uint64_t next) = 0;

  // Asked once, by Vcpu::set_control_flow(): whether executed() is wanted, which costs time.
  virtual bool wants_code() const { return false; }
  // The instructions in [start, end) were executed, one after the other. In the order of execution, but not
  // in step with branches(), before the vCPU stops; a repeated string instruction counts once.
  virtual void executed(uint64_t start, uint64_t end) { static_cast<void>(start), static_cast<void>(end); }
};

}  // namespace aftercheck
