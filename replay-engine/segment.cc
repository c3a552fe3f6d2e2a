#include "replay-engine/segment.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace aftercheck {
namespace {

uint64_t address_of(const Instant& instant) {
  if (const auto* arrival = std::get_if<recording::Arrival>(&instant)) return arrival->address;
  return std::get<recording::FullState>(instant).rip;
}

}  // namespace

Segment::Segment(Guest& guest, bool leave_machine, Visitors visitors)
    : guest_(guest), visitors_(std::move(visitors)) {
  if (leave_machine && guest.machine().kind() == MachineKind::kvm) dense_stops_.emplace(guest);
}

Segment::~Segment() {
  landing_.reset();
  set_goal(std::nullopt);
  for (const auto& [address, own] : own_) guest_.breakpoints().remove(address);
}

void Segment::begin(const recording::Event& ends_with) {
  set_goal(std::nullopt);
  looked_ = Looked::nothing;
  arrivals_here_ = 0;
  begun_ = false;
  for (auto& [address, own] : own_) own = {0, true};
  guest_.run(guest_.thread(ends_with.thread));
  if (Landing::lands_on(ends_with)) landing_.emplace(guest_, ends_with);
}

bool Segment::set_goal(const std::optional<Instant>& goal) {
  if (goal == goal_) return true;
  if (goal && begun_ && std::holds_alternative<recording::Arrival>(*goal)) return false;
  if (goal_) guest_.breakpoints().remove(address_of(*goal_));
  goal_ = goal;
  goal_arrivals_ = 0;
  if (goal_) guest_.breakpoints().add_waiting(address_of(*goal_));
  goal_is_new_ = goal_.has_value() && looked_ > Looked::landing;
  return true;
}

void Segment::add_breakpoint(uint64_t address) {
  if (!own_.try_emplace(address, Own{0, !begun_}).second) return;
  guest_.breakpoints().add_waiting(address);
}

void Segment::remove_breakpoint(uint64_t address) {
  if (own_.erase(address) != 0) guest_.breakpoints().remove(address);
}

std::optional<uint64_t> Segment::arrivals_here() const {
  const uint64_t rip = guest_.vcpu().registers().rip;
  if (arrivals_here_ != 0) return arrivals_here_;
  const auto own = own_.find(rip);
  if (own != own_.end() && own->second.counted && own->second.arrivals != 0) return own->second.arrivals;
  return std::nullopt;
}

bool Segment::stops_at(uint64_t address) const {
  return guest_.breakpoints().at(address) || (landing_ && address == landing_->address());
}

bool Segment::at_goal() {
  if (const auto* arrival = std::get_if<recording::Arrival>(&*goal_)) {
    arrivals_here_ = ++goal_arrivals_;
    return goal_arrivals_ == arrival->nth;
  }
  const auto& state = std::get<recording::FullState>(*goal_);
  return guest_.registers_digest(guest_.running()) == state.registers &&
         guest_.memory_digest() == state.memory;
}

// Whether there is a reason to stop where the guest is.
std::optional<SegmentStop> Segment::look() {
  const uint64_t rip = guest_.vcpu().registers().rip;
  if (looked_ == Looked::nothing) {
    looked_ = Looked::landing;
    if (landing_ && rip == landing_->address() && landing_->arrived())
      return SegmentStop{SegmentStop::Why::landed};
    if (const auto own = own_.find(rip); own != own_.end()) ++own->second.arrivals;
  }
  if (looked_ == Looked::landing || goal_is_new_) {
    looked_ = std::max(looked_, Looked::goal);
    goal_is_new_ = false;
    if (goal_ && rip == address_of(*goal_) && at_goal()) return SegmentStop{SegmentStop::Why::goal};
  }
  if (looked_ == Looked::goal) {
    looked_ = Looked::breakpoint;
    if (guest_.breakpoints().at(rip)) {
      visitors_.stopped(rip);
      if (dense_stops_ && !landing_) dense_stops_->stopped();
      if (visitors_.wants_stop()) return SegmentStop{SegmentStop::Why::wanted};
    }
  }
  if (looked_ == Looked::breakpoint) {
    looked_ = Looked::all;
    if (own_.contains(rip)) return SegmentStop{SegmentStop::Why::breakpoint};
  }
  return std::nullopt;
}

Exit Segment::go() { return landing_ ? landing_->go() : guest_.breakpoints().run(); }

// What a vCPU that is not the thread's own can't execute is no reason to stop while another can.
bool Segment::leave_other() {
  return (landing_ && landing_->give_up()) || (dense_stops_ && dense_stops_->give_up());
}

// Not before the guest is to run: a copy of the replay may be made until then, whose vCPUs are others.
void Segment::begin_counting() {
  if (landing_) landing_->begin();
  if (guest_.vcpu().counts_branches()) guest_.vcpu().reset_branches();
}

SegmentStop Segment::run() {
  if (!std::exchange(begun_, true)) begin_counting();
  if (dense_stops_) dense_stops_->begin();
  for (;;) {
    if (const std::optional<SegmentStop> stop = look()) {
      if (dense_stops_) dense_stops_->finish();
      if (stop->why == SegmentStop::Why::landed) {
        landing_.reset();
        guest_.move(guest_.own_vcpu());
      }
      return *stop;
    }
    if (landing_ && visitors_.landing) visitors_.landing(landing_->arrivals());
    const uint64_t rip = guest_.vcpu().registers().rip, branches = landing_ ? landing_->branches() : 0;
    try {
      const Exit exit = go();
      const bool passed = landing_ && landing_->passed();
      // A kick is for whoever waits for an event, and none is between here and there.
      if (landing_ && exit.kind == ExitKind::kick && !passed) {
        if (guest_.vcpu().registers().rip != rip || landing_->branches() != branches)
          looked_ = Looked::nothing;
        continue;
      }
      looked_ = Looked::nothing;
      arrivals_here_ = 0;
      if (exit.kind == ExitKind::breakpoint && stops_at(guest_.vcpu().registers().rip)) continue;
      if (dense_stops_) dense_stops_->finish();
      guest_.move(guest_.own_vcpu());
      return {passed && exit.kind == ExitKind::kick ? SegmentStop::Why::passed : SegmentStop::Why::exit,
              exit};
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported || !leave_other()) throw;
      if (guest_.vcpu().registers().rip != rip) looked_ = Looked::nothing;
    }
  }
}

}  // namespace aftercheck
