// Runs the guest from one event to the next: to the exit that ends the segment, or to what stops it before.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <variant>

#include "machine/exit.h"
#include "recording/event.h"
#include "recording/position.h"
#include "replay-engine/dense_stops.h"
#include "replay-engine/guest.h"
#include "replay-engine/landing.h"

namespace aftercheck {

// An instant within a segment that the caller wants to be at.
using Instant = std::variant<recording::Arrival, recording::FullState>;

struct SegmentStop {
  enum class Why : uint8_t {
    exit,        // `exit` has come: the segment is over
    landed,      // the guest is at the event that ends the segment, which is no exit
    passed,      // it has executed more branches than before that event, which it has not come to
    goal,        // at the instant that was asked for
    breakpoint,  // before the instruction at one of the caller's breakpoints
    wanted,      // a visitor wanted it
  } why = Why::exit;
  Exit exit{};
};

// One object serves all segments. After any stop but the first three run() goes on with the same
// segment, and looks at nothing twice.
class Segment {
 public:
  struct Visitors {
    // The guest is before the instruction at a breakpoint, anybody's. Called before the caller's own
    // breakpoints stop it.
    std::function<void(uint64_t address)> stopped;
    // Is the guest to stand still here? Asked after `stopped`.
    std::function<bool()> wants_stop;
    // Called now and then on the way to an event that is no exit, with the number of arrivals at its address.
    // Null: not.
    std::function<void(uint64_t arrivals)> landing = {};
  };

  // `leave_machine`: where stops are dense the guest may go to the soft vCPU for a while.
  Segment(Guest& guest, bool leave_machine, Visitors visitors);
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  // A new segment starts where the event's thread is, which the guest runs from now on; the event ends it and
  // must stay until it is over.
  void begin(const recording::Event& ends_with);
  // Has the guest run since then, or been looked at?
  bool begun() const { return begun_; }
  // Stops there once, if the guest comes by; nothing: no more. An Arrival counts from begin() on, so it can
  // be set before run() only; returns false, with nothing set, where the guest may have come by already.
  bool set_goal(const std::optional<Instant>& goal);

  // The caller's breakpoints. They wait where there is no memory yet.
  void add_breakpoint(uint64_t address);
  void remove_breakpoint(uint64_t address);

  SegmentStop run();

  // How often the guest was where the landing may be: for reports, after run() gave `exit` or `passed` in
  // place of `landed`.
  uint64_t landing_arrivals() const { return landing_ ? landing_->arrivals() : 0; }
  bool landing_counted() const { return landing_ && landing_->counted(); }
  // There, when it was there last; none: it never was.
  std::optional<Registers> landing_registers() const {
    return landing_ ? landing_->last_arrival() : std::nullopt;
  }
  // The number of times that it has been where it stands, if all were counted.
  std::optional<uint64_t> arrivals_here() const;

 private:
  // What was looked at of the instant where the guest is, in this order.
  enum class Looked : uint8_t { nothing, landing, goal, breakpoint, all };
  struct Own {
    uint64_t arrivals = 0;
    bool counted = false;  // since the segment began
  };

  Guest& guest_;
  const Visitors visitors_;
  std::optional<DenseStops> dense_stops_;
  std::map<uint64_t, Own> own_;  // the caller's breakpoints, by address
  std::optional<Instant> goal_;
  uint64_t goal_arrivals_ = 0;
  uint64_t arrivals_here_ = 0;  // of the goal where the guest stands; 0: nobody has counted for one
  bool goal_is_new_ = false;    // set while the guest stood still: it may be there
  std::optional<Landing> landing_;
  Looked looked_ = Looked::nothing;
  bool begun_ = false;

  std::optional<SegmentStop> look();
  bool at_goal();
  bool stops_at(uint64_t address) const;
  Exit go();
  void begin_counting();
  bool leave_other();
};

}  // namespace aftercheck
