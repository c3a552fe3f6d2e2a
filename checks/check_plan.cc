#include "checks/check_plan.h"

#include "base/error.h"

namespace aftercheck {
namespace {

// 4 bytes each. What a longer segment executed before its last so many blocks can't be planned.
constexpr size_t kMostBlocks = 16 << 20;

std::vector<pt::SegmentFlow::Goal> goals_of(const pt::SegmentFlow& flow,
                                            const std::vector<CheckPlan::Place>& places,
                                            const HitSelection& selection) {
  std::vector<pt::SegmentFlow::Goal> goals;
  for (size_t i = 0; i < places.size(); ++i)
    for (uint64_t nth = 1; nth <= flow.hits(i); ++nth)
      if (selection.includes(places[i].hits_before + nth)) goals.push_back({i, nth});
  return goals;
}

}  // namespace

bool CheckPlan::plan(uint64_t event, const std::vector<Place>& places, const HitSelection& selection) {
  std::vector<uint64_t> addresses;
  for (const Place& place : places) addresses.push_back(place.address);
  if (!flow_ || addresses != addresses_) {
    addresses_ = addresses;
    flow_.emplace(trace_->decoder(), addresses_, kMostBlocks);
  }
  places_ = places;
  landings_.clear();
  landing_ = 0;
  if (!trace_->follow(event, *flow_)) return false;
  uint64_t all = 0, planned = 0;
  for (size_t i = 0; i < places_.size(); ++i) all += flow_->hits(i);
  const std::vector<pt::SegmentFlow::Goal> goals = goals_of(*flow_, places_, selection);
  try {
    if (!goals.empty()) landings_ = flow_->plan_all(goals);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::unsupported) throw;
    return false;
  }
  for (const pt::SegmentFlow::Landing& landing : landings_) planned += landing.plan.cost;
  if (planned > all) return false;
  begin_stop();
  return true;
}

void CheckPlan::begin_stop() {
  stop_ = 0;
  if (landing_ < landings_.size()) hits_left_ = landings_[landing_].plan.stops.front().hits;
}

std::optional<uint64_t> CheckPlan::next_stop() const {
  if (landing_ == landings_.size()) return std::nullopt;
  return landings_[landing_].plan.stops[stop_].address;
}

std::optional<CheckPlan::Wanted> CheckPlan::arrived() {
  if (--hits_left_ != 0) return std::nullopt;
  const pt::SegmentFlow::Landing& landing = landings_[landing_];
  if (++stop_ < landing.plan.stops.size()) {
    hits_left_ = landing.plan.stops[stop_].hits;
    return std::nullopt;
  }
  const Wanted wanted{landing.goal.wanted, places_[landing.goal.wanted].hits_before + landing.goal.nth};
  ++landing_;
  begin_stop();
  return wanted;
}

}  // namespace aftercheck
