// Landing plans: how to bring a replay to one dynamic instruction of a segment with the fewest stops at
// breakpoints. The trace of the segment tells which addresses run how often and in which order.
#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "pt-trace/flow_decoder.h"

namespace aftercheck::pt {

// One link of a chain: a breakpoint at `address` and nowhere else, until it has been hit so often.
struct LandingStop {
  uint64_t address = 0;
  uint64_t hits = 0;
  bool operator==(const LandingStop&) const = default;
};

// The guest starts at the segment's beginning (a breakpoint on its first instruction is hit at once), or
// before the instruction at the end of the plan before. At the end it is before the wanted instruction.
struct LandingPlan {
  std::vector<LandingStop> stops;
  uint64_t cost = 0;   // all hits
  uint64_t naive = 0;  // hits of the wanted address since the last landing on it, or since the beginning
  // There is no cheaper chain. False where the segment was longer than what was kept of it.
  bool optimal = true;
};

// What executed in one segment, and plans for it. Keeps the last `most_blocks` blocks, 4 bytes each, and of
// those before them how often each was executed; grows with the code executed beyond that. Not thread-safe.
class SegmentFlow {
 public:
  static constexpr size_t default_most_blocks = 100'000'000;

  // `wanted`: the addresses that plans will be asked for. The decoder, whose blocks come, outlives this.
  SegmentFlow(const FlowDecoder& decoder, std::vector<uint64_t> wanted,
              size_t most_blocks = default_most_blocks);

  // As FlowSink gets them. A block that is new must be added while the code image still has its code.
  void add(std::span<const BlockId> blocks);
  // Also as FlowSink gets them: where execution was interrupted in the middle of a block.
  void add(const FlowEvent& event);
  // A new segment begins.
  void clear();
  // Executions of wanted addresses in the segment so far, by their index.
  uint64_t hits(size_t wanted) const { return hits_[wanted]; }
  uint64_t blocks() const { return dropped_ + kept_.size(); }

  // To the nth execution (from 1 on) of a wanted address. Throws Error(usage) when there are fewer, and
  // Error(unsupported) when it lies before the blocks that are kept. O(blocks).
  LandingPlan plan(size_t wanted, uint64_t nth);

  // One pass over the segment that lands on all goals: each plan starts where the one before ended. In order
  // of execution. Throws as plan(). O(blocks + goals).
  struct Goal {
    size_t wanted = 0;
    uint64_t nth = 1;  // from the segment's beginning
  };
  struct Landing {
    Goal goal;
    LandingPlan plan;
  };
  std::vector<Landing> plan_all(std::span<const Goal> goals);

 private:
  // The instructions of a block, as addresses.
  using Code = std::vector<uint64_t>;
  // A place in the segment: which of the kept blocks, and which of the candidates in it.
  struct Place {
    size_t block = 0;
    size_t candidate = 0;
    auto operator<=>(const Place&) const = default;
  };

  void learn(BlockId id);
  void find_candidates();
  // The places of goals, in order of execution.
  struct Placed {
    Goal goal;
    Place place;
  };
  std::vector<Placed> place(std::span<const Goal> goals) const;
  LandingPlan chain(const Place* start, const Place& goal);
  LandingPlan in_order(const std::vector<uint32_t>& chosen, std::optional<LandingStop> first) const;

  const FlowDecoder& decoder_;
  const std::vector<uint64_t> wanted_;
  const size_t most_blocks_;
  std::vector<Code> code_;                         // by block
  std::vector<std::vector<uint32_t>> per_wanted_;  // by block: executions of each wanted address; empty: none
  std::vector<uint64_t> hits_;

  std::deque<BlockId> kept_;  // grows without copies
  uint64_t dropped_ = 0;
  std::vector<uint64_t> dropped_counts_;  // by block

  // Addresses where a breakpoint may be put: starts of blocks, what is wanted and what follows that, and what
  // was interrupted. Nothing else is ever better: what comes behind those in a block executes whenever they
  // do.
  std::vector<uint64_t> interrupted_;
  bool candidates_known_ = false;
  std::vector<uint64_t> candidates_;
  std::vector<std::vector<uint32_t>> in_block_;  // by block: its candidates in order
  std::vector<uint64_t> dropped_hits_;           // by candidate: executions in dropped blocks
  std::vector<uint64_t> member_of_;              // by candidate: the chain in whose set it is
  std::vector<uint64_t> met_in_;                 // by candidate: the round that met it last
  uint64_t chains_ = 0, rounds_ = 0;
};

}  // namespace aftercheck::pt
