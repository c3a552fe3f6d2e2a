// Bringing a vCPU to an exact dynamic instruction inside a segment.
#pragma once

#include <cstdint>
#include <functional>

#include "machine/address_space.h"
#include "machine/exit.h"
#include "machine/vcpu.h"

namespace aftercheck {

struct LandingTarget {
  uint64_t rip = 0;
  // Both are asked with RIP on `rip`: first whether the registers are those wanted, which must be cheap; then
  // whether everything else is too (guest memory is free of breakpoints then).
  std::function<bool(Vcpu&)> registers_match;
  std::function<bool(Vcpu&)> all_matches;
};

struct Landing {
  enum class Kind { landed, gave_up, exited } kind = Kind::landed;
  Exit exit{};            // exited: the exit that came before the target
  uint64_t arrivals = 0;  // at `rip`, the last included
};

// Runs to the first arrival at target.rip, the present instant included, where both predicates hold; gives up
// after `max_arrivals` others, with the guest at one of them.
Landing land(Vcpu& vcpu, AddressSpace& space, const LandingTarget& target, uint64_t max_arrivals);

}  // namespace aftercheck
