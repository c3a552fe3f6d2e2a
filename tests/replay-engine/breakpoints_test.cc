// Breakpoints where the guest's code is moved over, and where it is a file that calls change.
#include <algorithm>

#include "replay_fixture.h"
#include "rewritten.h"

namespace aftercheck::test {
namespace {

enum { tell_there = 1, tell_moved, tell_mapped, tell_over };

const std::filesystem::path& moves() {
  static const Workplace place;
  static const std::filesystem::path recording = [] {
    record_bare(place, MOVES_GUEST);
    return place / "recording";
  }();
  return recording;
}

// The same without what the recorder does first: it unmaps what memory is moved over.
const std::filesystem::path& moves_over() {
  using recording::Event;
  using recording::SpaceOpKind;
  static const Workplace place;
  static const std::filesystem::path recording = [] {
    rewrite(moves(), place / "recording", [](const Event& event, uint64_t) {
      std::vector<Event> events = {event};
      auto& ops = events[0].space_ops;
      if (std::ranges::any_of(ops, [](const auto& op) { return op.kind == SpaceOpKind::remap; }))
        std::erase_if(ops, [](const auto& op) { return op.kind == SpaceOpKind::unmap; });
      return events;
    });
    return place / "recording";
  }();
  return recording;
}

Told told(uint64_t what) { return told_by(moves()).find(what)->second; }

// Every call of the code there is seen, and nothing of the breakpoint reaches the guest.
void check_calls(const std::filesystem::path& recording, MachineChoice machine, uint64_t where,
                 uint64_t until, uint64_t calls) {
  const uint64_t code = told(where).value;
  Replay replay(options_for(recording, machine));
  replay.add_breakpoint(code);
  uint64_t stops = 0;
  for (Stop stop; (stop = replay.advance({.event = told(until).event})).why == Stop::Why::breakpoint;
       ++stops) {
    REQUIRE(stop.address == code);
    CHECK(stop.event > told(where).event);
    REQUIRE(stops < 100);
  }
  CHECK(stops == calls);
  replay.remove_breakpoint(code);
  CHECK(ends_well(replay));
}

}  // namespace

#define ON_EACH(name, call) ON_EACH_MACHINE(name, moves(), call)

ON_EACH("replay: breakpoints stay where memory is moved to",
        check_calls(moves(), machine, tell_there, tell_moved, 7))
ON_EACH("replay: breakpoints stay where memory is moved over other memory",
        check_calls(moves_over(), machine, tell_there, tell_moved, 7))
ON_EACH("replay: breakpoints stay in a mapped file that calls change",
        check_calls(moves(), machine, tell_mapped, tell_over, 6))

}  // namespace aftercheck::test
