#include "replay-engine/landing.h"

namespace aftercheck {
namespace {

// The breakpoint that takes us to the target, where the vCPU has no better way.
class TargetBreakpoint {
 public:
  TargetBreakpoint(Vcpu& vcpu, Breakpoints& breakpoints, uint64_t address)
      : breakpoints_(breakpoints), address_(address), shared_(breakpoints.at(address)) {
    set_ = !vcpu.has_run_to() && breakpoints.add(address);
  }
  ~TargetBreakpoint() {
    if (set_) breakpoints_.remove(address_);
  }
  TargetBreakpoint(const TargetBreakpoint&) = delete;
  TargetBreakpoint& operator=(const TargetBreakpoint&) = delete;

  // Somebody else wants to stop at `address`.
  bool others_at(uint64_t address) const {
    return breakpoints_.at(address) && (address != address_ || shared_ || !set_);
  }

 private:
  Breakpoints& breakpoints_;
  uint64_t address_;
  bool shared_ = false, set_ = false;
};

}  // namespace

Landing land(Vcpu& vcpu, Breakpoints& breakpoints, const LandingTarget& target, uint64_t max_arrivals,
             const std::function<void(uint64_t address)>& on_stop) {
  const TargetBreakpoint own(vcpu, breakpoints, target.rip);
  Landing landing;
  for (;;) {
    const uint64_t rip = vcpu.registers().rip;
    if (rip == target.rip) {
      ++landing.arrivals;
      if (target.registers_match(vcpu) && target.all_matches(vcpu)) return landing;
      if (landing.arrivals > max_arrivals) {
        landing.kind = Landing::Kind::gave_up;
        return landing;
      }
    }
    if (own.others_at(rip)) on_stop(rip);
    do landing.exit = vcpu.has_run_to() ? breakpoints.run_to(target.rip) : breakpoints.run();
    while (landing.exit.kind == ExitKind::kick);
    const uint64_t now = vcpu.registers().rip;
    if (landing.exit.kind != ExitKind::breakpoint || (now != target.rip && !breakpoints.at(now))) {
      landing.kind = Landing::Kind::exited;
      return landing;
    }
  }
}

}  // namespace aftercheck
