// Which breakpoints a check sets when only some hits are wanted and the recording's trace tells where they
// are.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "pt-replay/trace_segments.h"

namespace aftercheck {

// Which of a site's hits are checked, counted from 1: first, first + every, ... up to last.
struct HitSelection {
  uint64_t first = 1, last = UINT64_MAX, every = 1;
  bool includes(uint64_t number) const {
    return number >= first && number <= last && (number - first) % every == 0;
  }
  bool all() const { return first == 1 && last == UINT64_MAX && every == 1; }
};

class CheckPlan {
 public:
  struct Place {
    uint64_t address = 0;
    uint64_t hits_before = 0;  // of its site, before the segment
  };

  explicit CheckPlan(std::unique_ptr<TraceSegments> trace) : trace_(std::move(trace)) {}

  // Plans the segment after this event. False where a breakpoint at each of the places is no worse, or the
  // trace can't tell; events must not go back. Throws Error bad_input for a damaged trace or log.
  bool plan(uint64_t event, const std::vector<Place>& places, const HitSelection& selection);

  // After plan() gave true: hits in the whole segment, of the place with this index.
  uint64_t hits(size_t place) const { return flow_->hits(place); }
  // The one address where the guest has to stop next; nothing where no wanted hit is left in the segment.
  std::optional<uint64_t> next_stop() const;
  // The guest has stopped there. The wanted hit that this is, if it is one.
  struct Wanted {
    size_t place = 0;
    uint64_t number = 0;  // of the site's hits
  };
  std::optional<Wanted> arrived();

 private:
  std::unique_ptr<TraceSegments> trace_;
  std::vector<uint64_t> addresses_;  // that flow_ was made for
  std::optional<pt::SegmentFlow> flow_;
  std::vector<Place> places_;
  std::vector<pt::SegmentFlow::Landing> landings_;
  size_t landing_ = 0, stop_ = 0;  // where in the plans the guest is
  uint64_t hits_left_ = 0;         // of the stop under way

  void begin_stop();
};

}  // namespace aftercheck
