#include "replay-engine/landing.h"

#include "machine/breakpoints.h"

namespace aftercheck {

Landing land(Vcpu& vcpu, AddressSpace& space, const LandingTarget& target, uint64_t max_arrivals) {
  Breakpoints breakpoints(vcpu, space);
  Landing landing;
  for (;;) {
    if (vcpu.registers().rip == target.rip) {
      ++landing.arrivals;
      if (target.registers_match(vcpu)) {
        breakpoints.remove(target.rip);
        if (target.all_matches(vcpu)) return landing;
      }
      if (landing.arrivals > max_arrivals) {
        landing.kind = Landing::Kind::gave_up;
        return landing;
      }
    }
    const bool armed = vcpu.has_run_to() || breakpoints.add(target.rip);
    landing.exit = vcpu.has_run_to() ? vcpu.run_to(target.rip) : breakpoints.run();
    if (landing.exit.kind == ExitKind::kick) continue;
    if (!armed || landing.exit.kind != ExitKind::breakpoint || vcpu.registers().rip != target.rip) {
      landing.kind = Landing::Kind::exited;
      return landing;
    }
  }
}

}  // namespace aftercheck
