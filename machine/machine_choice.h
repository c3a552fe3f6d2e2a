// Which machine runs a guest where nobody has asked for one.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "machine/exit_costs.h"
#include "machine/vcpu.h"

namespace aftercheck {

// The dearest exit with which KVM is still taken before translated code, in microseconds. Translated code
// computes some 25 % slower (docs/performance.md), so with an exit of 5 us it is ahead from 50,000 exits a
// second on; an exit takes 1 to 2 us where KVM runs on the processor itself, 30 where it is nested.
constexpr double kCheapExit = 5;

// Machines in the order in which they are tried, best first, and why the first is the best.
struct MachineOrder {
  std::vector<MachineKind> kinds;
  std::string reason;  // "an exit costs 31 us on KVM, 0.03 us in translated code"
};
// `costs` is asked only where it matters; without KVM the cost of the others does not.
MachineOrder machines_in_order(const MachineNeeds& needs, CpuModelKind cpu,
                               const std::function<ExitCosts()>& costs);

}  // namespace aftercheck
