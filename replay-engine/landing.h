// Bringing a vCPU to an exact dynamic instruction inside a segment.
#pragma once

#include <cstdint>
#include <functional>

#include "machine/breakpoints.h"
#include "machine/exit.h"
#include "machine/vcpu.h"

namespace aftercheck {

struct LandingTarget {
  uint64_t rip = 0;
  // Both are asked with RIP on `rip`: first whether the registers are those wanted, which must be cheap; then
  // whether everything else is too (guest memory has breakpoints in it: Breakpoints::restore_original()).
  std::function<bool(Vcpu&)> registers_match;
  std::function<bool(Vcpu&)> all_matches;
};

struct Landing {
  enum class Kind { landed, gave_up, exited } kind = Kind::landed;
  Exit exit{};            // exited: the exit that came before the target
  uint64_t arrivals = 0;  // at `rip`, the last included
};

// Runs to the first arrival at target.rip, the present instant included, where both predicates hold; gives up
// after `max_arrivals` others, with the guest at one of them. `breakpoints` are those of `vcpu`; `on_stop` is
// called before each instruction at one of them, except the one landed on, which has not been reached yet.
Landing land(Vcpu& vcpu, Breakpoints& breakpoints, const LandingTarget& target, uint64_t max_arrivals,
             const std::function<void(uint64_t address)>& on_stop);

}  // namespace aftercheck
