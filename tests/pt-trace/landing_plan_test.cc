// Landing plans against a search of all chains, and against following them.
#include "pt-trace/landing_plan.h"

#include <catch2/catch.hpp>
#include <map>

#include "base/error.h"
#include "program.h"

namespace aftercheck::pt::test {
namespace {

// Decodes an execution into a SegmentFlow and the addresses of all instructions.
struct Segment : FlowSink {
  CodeImage image;
  FlowDecoder decoder;
  SegmentFlow flow;
  std::vector<uint64_t> ips;

  Segment(const Program& program, const std::vector<uint8_t>& trace, std::vector<uint64_t> wanted,
          size_t most_blocks = SegmentFlow::default_most_blocks)
      : image(program.image()),
        decoder(image, *this, {program.mode(), false, {}}),
        flow(decoder, std::move(wanted), most_blocks) {
    decoder.feed(trace);
    decoder.finish();
  }
  void on_event(const FlowEvent& event) override { flow.add(event); }
  void on_blocks(std::span<const BlockId> blocks) override {
    flow.add(blocks);
    for (const BlockId id : blocks)
      decoder.for_each_instruction(id, [this](uint64_t ip, uint8_t) { ips.push_back(ip); });
  }
};

constexpr size_t kBeginning = static_cast<size_t>(-1);

// Where a guest that stands at `from` gets to by the plan; ips.size() when it runs away.
size_t follow(const std::vector<uint64_t>& ips, size_t from, const LandingPlan& plan) {
  size_t at = from;
  for (const LandingStop& stop : plan.stops)
    for (uint64_t hit = 0; hit < stop.hits; ++hit) {
      do ++at;
      while (at < ips.size() && ips[at] != stop.address);
      if (at >= ips.size()) return ips.size();
    }
  return at;
}

// The fewest stops from the beginning to each place, by trying every next stop from every place.
std::vector<uint64_t> fewest_stops(const std::vector<uint64_t>& ips, size_t from) {
  const uint64_t never = ~uint64_t{0};
  std::vector<uint64_t> stops(ips.size(), never);
  std::vector<size_t> reached{from};
  for (uint64_t count = 1; !reached.empty(); ++count) {
    std::vector<size_t> next;
    for (const size_t at : reached) {
      std::map<uint64_t, bool> passed;
      for (size_t q = at + 1; q < ips.size(); ++q)
        if (!std::exchange(passed[ips[q]], true) && stops[q] == never) {
          stops[q] = count;
          next.push_back(q);
        }
    }
    reached = std::move(next);
  }
  return stops;
}

}  // namespace

TEST_CASE("plans reach their goal with the fewest stops there are, from any instruction") {
  size_t compared = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    Random random(seed);
    const Program program(random, 3 + random.below(12));
    Random choices(seed * 7), host(seed * 11);
    const auto execution = program.execute(choices, host, 30 + random.below(120), {}, 0);
    // Every instruction is wanted, also those in the middle of blocks.
    std::vector<uint64_t> wanted(execution.ips);
    std::sort(wanted.begin(), wanted.end());
    wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
    Segment segment(program, execution.trace, wanted);
    const auto& ips = segment.ips;
    REQUIRE(ips == execution.ips);
    const auto best = fewest_stops(ips, kBeginning);
    std::map<uint64_t, uint64_t> hits;
    for (size_t goal = 0; goal < ips.size(); ++goal) {
      const uint64_t nth = ++hits[ips[goal]];
      const auto index =
          static_cast<size_t>(std::lower_bound(wanted.begin(), wanted.end(), ips[goal]) - wanted.begin());
      if (goal % 5 != seed % 5) continue;
      const LandingPlan plan = segment.flow.plan(index, nth);
      INFO("seed " << seed << ", goal " << goal << " of " << ips.size());
      REQUIRE(follow(ips, kBeginning, plan) == goal);
      REQUIRE(plan.cost == best[goal]);
      CHECK(plan.naive == nth);
      CHECK(plan.optimal);
      ++compared;
    }
    for (size_t i = 0; i < wanted.size(); ++i) CHECK(segment.flow.hits(i) == hits[wanted[i]]);
  }
  CHECK(compared > 1000);
}

TEST_CASE("a pass over several goals goes from one to the next, each time with the fewest stops") {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Random random(seed);
    const Program program(random, 3 + random.below(12));
    Random choices(seed * 5), host(seed);
    const auto execution = program.execute(choices, host, 150, {}, 0);
    const auto& ips = execution.ips;
    std::vector<uint64_t> wanted{ips[random.below(ips.size())], ips[random.below(ips.size())]};
    Segment segment(program, execution.trace, wanted);
    std::vector<SegmentFlow::Goal> goals;
    for (int i = 0; i < 4; ++i) {
      const size_t w = random.below(2);
      goals.push_back({w, 1 + random.below(segment.flow.hits(w))});
    }
    size_t at = kBeginning, landings = 0;
    for (const auto& landing : segment.flow.plan_all(goals)) {
      const size_t to = follow(ips, at, landing.plan);
      REQUIRE(to < ips.size());
      CHECK(ips[to] == wanted[landing.goal.wanted]);
      CHECK(static_cast<uint64_t>(std::count(ips.begin(), ips.begin() + static_cast<long>(to) + 1,
                                             wanted[landing.goal.wanted])) == landing.goal.nth);
      if (to != at) CHECK(landing.plan.cost == fewest_stops(ips, at)[to]);
      at = to;
      ++landings;
    }
    CHECK(landings == goals.size());
  }
}

TEST_CASE("of a segment that is too long, plans are right, if not the shortest") {
  size_t shorter = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Random random(seed);
    const Program program(random, 3 + random.below(12));
    Random choices(seed * 3), host(seed);
    const auto execution = program.execute(choices, host, 200, {}, 0);
    const auto& ips = execution.ips;
    const uint64_t address = ips[ips.size() - 1 - random.below(5)];
    Segment segment(program, execution.trace, {address}, 20);
    const uint64_t nth = segment.flow.hits(0);
    const LandingPlan plan = segment.flow.plan(0, nth);
    const size_t goal = follow(ips, kBeginning, plan);
    REQUIRE(goal < ips.size());
    CHECK(ips[goal] == address);
    CHECK(std::count(ips.begin(), ips.begin() + static_cast<long>(goal) + 1, address) ==
          static_cast<long>(nth));
    const uint64_t best = fewest_stops(ips, kBeginning)[goal];
    CHECK(plan.cost >= best);
    if (plan.optimal) CHECK(plan.cost == best);
    CHECK(plan.cost <= nth);
    shorter += plan.cost < nth;
    if (std::count(ips.end() - 15, ips.end(), address) < static_cast<long>(nth) && nth > 20)
      CHECK_THROWS_AS(segment.flow.plan(0, 1), Error);
  }
  CHECK(shorter > 5);
}

TEST_CASE("what can't be planned is said") {
  Random random(1), choices(2), host(3);
  const Program program(random, 6);
  const auto execution = program.execute(choices, host, 50, {}, 0);
  Segment segment(program, execution.trace, {execution.ips[0], 0x1});
  CHECK_THROWS_WITH(segment.flow.plan(1, 1), Catch::Contains("0x1 is executed 0 times in this segment"));
  CHECK_THROWS_AS(segment.flow.plan(0, 0), Error);
  CHECK_THROWS_AS(segment.flow.plan(0, segment.flow.hits(0) + 1), Error);
  segment.flow.clear();
  CHECK(segment.flow.hits(0) == 0);
  CHECK_THROWS_AS(segment.flow.plan(0, 1), Error);
}

}  // namespace aftercheck::pt::test
