#include "pt-trace/landing_plan.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace aftercheck::pt {

SegmentFlow::SegmentFlow(const FlowDecoder& decoder, std::vector<uint64_t> wanted, size_t most_blocks)
    : decoder_(decoder),
      wanted_(std::move(wanted)),
      most_blocks_(std::max<size_t>(most_blocks, 1)),
      hits_(wanted_.size()) {}

void SegmentFlow::learn(BlockId id) {
  if (id >= code_.size()) {
    code_.resize(id + 1);
    per_wanted_.resize(id + 1);
  }
  Code& code = code_[id];
  if (!code.empty()) return;
  decoder_.for_each_instruction(id, [&code](uint64_t ip, uint8_t) { code.push_back(ip); });
  std::vector<uint32_t> counts(wanted_.size());
  for (size_t i = 0; i < wanted_.size(); ++i)
    counts[i] = static_cast<uint32_t>(std::count(code.begin(), code.end(), wanted_[i]));
  if (std::any_of(counts.begin(), counts.end(), [](uint32_t count) { return count != 0; }))
    per_wanted_[id] = std::move(counts);
}

void SegmentFlow::add(std::span<const BlockId> blocks) {
  candidates_known_ = false;
  for (const BlockId id : blocks) {
    if (id >= code_.size() || code_[id].empty()) learn(id);
    const auto& counts = per_wanted_[id];
    for (size_t i = 0; i < counts.size(); ++i) hits_[i] += counts[i];
    kept_.push_back(id);
    if (kept_.size() <= most_blocks_) continue;
    const BlockId old = kept_.front();
    kept_.pop_front();
    ++dropped_;
    if (old >= dropped_counts_.size()) dropped_counts_.resize(code_.size());
    ++dropped_counts_[old];
  }
}

void SegmentFlow::add(const FlowEvent& event) {
  if (event.kind != FlowEventKind::async_branch && event.kind != FlowEventKind::async_disabled) return;
  candidates_known_ = false;
  const auto place = std::lower_bound(interrupted_.begin(), interrupted_.end(), event.from);
  if (place == interrupted_.end() || *place != event.from) interrupted_.insert(place, event.from);
}

void SegmentFlow::clear() {
  interrupted_.clear();
  kept_.clear();
  dropped_ = 0;
  dropped_counts_.clear();
  std::fill(hits_.begin(), hits_.end(), 0);
  candidates_known_ = false;
}

void SegmentFlow::find_candidates() {
  if (candidates_known_) return;
  candidates_known_ = true;
  std::vector<bool> here(code_.size());
  for (const BlockId id : kept_) here[id] = true;
  for (size_t id = 0; id < dropped_counts_.size(); ++id) here[id] = here[id] || dropped_counts_[id] != 0;
  candidates_ = wanted_;
  candidates_.insert(candidates_.end(), interrupted_.begin(), interrupted_.end());
  for (size_t id = 0; id < code_.size(); ++id) {
    const Code& code = code_[id];
    if (!here[id] || code.empty()) continue;
    candidates_.push_back(code.front());
    // A plan may start at a wanted address in the middle of a block: the rest is like a block of its own.
    if (per_wanted_[id].empty()) continue;
    for (size_t i = 0; i + 1 < code.size(); ++i)
      if (std::find(wanted_.begin(), wanted_.end(), code[i]) != wanted_.end())
        candidates_.push_back(code[i + 1]);
  }
  std::sort(candidates_.begin(), candidates_.end());
  candidates_.erase(std::unique(candidates_.begin(), candidates_.end()), candidates_.end());
  in_block_.assign(code_.size(), {});
  for (size_t id = 0; id < code_.size(); ++id) {
    if (!here[id]) continue;
    for (const uint64_t address : code_[id]) {
      const auto found = std::lower_bound(candidates_.begin(), candidates_.end(), address);
      if (found != candidates_.end() && *found == address)
        in_block_[id].push_back(static_cast<uint32_t>(found - candidates_.begin()));
    }
  }
  dropped_hits_.assign(candidates_.size(), 0);
  for (size_t id = 0; id < dropped_counts_.size(); ++id)
    if (dropped_counts_[id] != 0)
      for (const uint32_t candidate : in_block_[id]) dropped_hits_[candidate] += dropped_counts_[id];
  member_of_.assign(candidates_.size(), 0);
  met_in_.assign(candidates_.size(), 0);
  chains_ = rounds_ = 0;
}

std::vector<SegmentFlow::Placed> SegmentFlow::place(std::span<const Goal> goals) const {
  std::vector<uint32_t> candidate(wanted_.size());
  std::vector<uint64_t> passed(wanted_.size());
  for (size_t w = 0; w < wanted_.size(); ++w) {
    candidate[w] = static_cast<uint32_t>(
        std::lower_bound(candidates_.begin(), candidates_.end(), wanted_[w]) - candidates_.begin());
    passed[w] = dropped_hits_[candidate[w]];
  }
  std::vector<Goal> open(goals.begin(), goals.end());
  for (const Goal& goal : open) {
    const uint64_t address = wanted_.at(goal.wanted);
    if (goal.nth == 0 || goal.nth > hits_[goal.wanted])
      fail(ErrorKind::usage, "{:#x} is executed {} times in this segment: there is no hit {}", address,
           hits_[goal.wanted], goal.nth);
    if (goal.nth <= passed[goal.wanted])
      fail(ErrorKind::unsupported,
           "hit {} of {:#x} lies before the last {} blocks of the segment, which are all that is kept of it",
           goal.nth, address, kept_.size());
  }
  // The nearest goal of each address last.
  std::vector<std::vector<uint64_t>> waiting(wanted_.size());
  for (const Goal& goal : open) waiting[goal.wanted].push_back(goal.nth);
  for (auto& list : waiting) std::sort(list.rbegin(), list.rend());
  std::vector<Placed> placed;
  for (size_t i = 0; i < kept_.size() && placed.size() < open.size(); ++i) {
    const BlockId id = kept_[i];
    if (per_wanted_[id].empty()) continue;
    for (size_t c = 0; c < in_block_[id].size(); ++c)
      for (size_t w = 0; w < wanted_.size(); ++w) {
        if (in_block_[id][c] != candidate[w]) continue;
        ++passed[w];
        while (!waiting[w].empty() && waiting[w].back() == passed[w]) {
          placed.push_back({{w, passed[w]}, {i, c}});
          waiting[w].pop_back();
        }
      }
  }
  return placed;
}

// The places from which k stops suffice are all those between some place L(k) and the goal: L(1) is the
// execution of the goal's address before the goal; L(k+1) is the earliest among the last executions before
// L(k) of all candidates that are executed in [L(k), goal). So one walk backward does it. A round ends where
// the last of those candidates is met again; a breakpoint there is the stop to make from that place on. At
// the start, any that was not met will do.
LandingPlan SegmentFlow::chain(const Place* start, const Place& goal) {
  const uint64_t chain = ++chains_;
  uint64_t round = ++rounds_;
  std::vector<uint32_t> members{in_block_[kept_[goal.block]][goal.candidate]};
  member_of_[members[0]] = chain;
  size_t unmet = 1;              // members of this round; those that join in it are met already
  std::vector<uint32_t> chosen;  // the last stop first
  Place at = goal;
  bool arrived = false;
  while (!arrived) {
    while (at.candidate == 0 && at.block > 0) at.candidate = in_block_[kept_[--at.block]].size();
    if (at.candidate == 0) break;
    --at.candidate;
    arrived = start != nullptr && at == *start;
    const uint32_t met = in_block_[kept_[at.block]][at.candidate];
    if (member_of_[met] != chain) {
      member_of_[met] = chain;
      members.push_back(met);
    } else if (met_in_[met] == round) {
      continue;
    } else if (--unmet == 0) {
      chosen.push_back(met);
      if (arrived) return in_order(chosen, {});
      round = ++rounds_;
      unmet = members.size();
      continue;
    }
    met_in_[met] = round;
  }
  std::erase_if(members, [&](uint32_t member) { return met_in_[member] == round; });
  // Of a segment whose beginning was not kept, the one that was hit least before.
  uint32_t first = members.front();
  uint64_t hits_before = start == nullptr ? dropped_hits_[first] : 0;
  if (start == nullptr && dropped_ != 0)
    for (const uint32_t member : members)
      if (const uint64_t hits = dropped_hits_[member]; hits < hits_before) {
        hits_before = hits;
        first = member;
      }
  LandingPlan plan = in_order(chosen, LandingStop{candidates_[first], hits_before + 1});
  plan.optimal = hits_before == 0;
  return plan;
}

// Stops were chosen from the goal backward; those at one address in a row are one link of the chain.
LandingPlan SegmentFlow::in_order(const std::vector<uint32_t>& chosen,
                                  std::optional<LandingStop> first) const {
  LandingPlan plan;
  if (first) plan.stops.push_back(*first);
  for (auto stop = chosen.rbegin(); stop != chosen.rend(); ++stop) {
    if (!plan.stops.empty() && plan.stops.back().address == candidates_[*stop])
      ++plan.stops.back().hits;
    else
      plan.stops.push_back({candidates_[*stop], 1});
  }
  for (const LandingStop& stop : plan.stops) plan.cost += stop.hits;
  return plan;
}

std::vector<SegmentFlow::Landing> SegmentFlow::plan_all(std::span<const Goal> goals) {
  find_candidates();
  std::vector<Landing> landings;
  const Place* start = nullptr;
  const std::vector<Placed> placed = place(goals);
  // Which hit of each wanted address the last landing passed.
  std::vector<uint64_t> passed(wanted_.size());
  for (const Placed& next : placed) {
    Landing landing{next.goal, {}};
    if (start == nullptr || *start != next.place) landing.plan = chain(start, next.place);
    landing.plan.naive = next.goal.nth - passed[next.goal.wanted];
    // Both count from the beginning here: only then is a plan not the shortest.
    if (!landing.plan.optimal && landing.plan.cost > next.goal.nth) {
      landing.plan.stops = {{wanted_[next.goal.wanted], next.goal.nth}};
      landing.plan.cost = next.goal.nth;
    }
    landings.push_back(std::move(landing));
    passed[next.goal.wanted] = next.goal.nth;
    start = &next.place;
  }
  return landings;
}

LandingPlan SegmentFlow::plan(size_t wanted, uint64_t nth) {
  const Goal goal{wanted, nth};
  return plan_all({&goal, 1})[0].plan;
}

}  // namespace aftercheck::pt
