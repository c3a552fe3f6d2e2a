// A replay that is driven: where it stops, and that it is the recorded run all the same.
#include "replay-engine/replay.h"

#include <sys/mman.h>

#include <array>

#include "replay-engine/untrapped_code.h"
#include "replay_fixture.h"

namespace aftercheck::test {
namespace {

using Catch::Matchers::Contains;
using recording::Arrival;
using recording::FullState;
using recording::Position;
using Why = Stop::Why;

enum {
  tell_leaf = 1,
  tell_step,
  tell_word,
  tell_round,
  tell_code,
  tell_code_over,
  tell_sharing,
  tell_shared
};

// One recording serves all tests, which do not change it.
const std::filesystem::path& steps() {
  static const Workplace place;
  static const std::filesystem::path recording = [] {
    record_bare(place, STEPS_GUEST);
    return place / "recording";
  }();
  return recording;
}

uint64_t value_of(uint64_t what) { return told_by(steps()).find(what)->second.value; }
// The event that tells the end of round `round`; rounds are segments.
uint64_t round_event(uint64_t round) {
  const auto told = told_by(steps());
  for (auto [it, end] = told.equal_range(tell_round); it != end; ++it)
    if (it->second.value == round) return it->second.event;
  FAIL("no round " << round);
  return 0;
}
// The segment of a round follows this event.
uint64_t before_round(uint64_t round) { return round_event(round) - 1; }
uint64_t event_of(uint64_t what) { return told_by(steps()).find(what)->second.event; }

Position arrival(uint64_t event, uint64_t address, uint64_t nth) {
  Position position;
  position.event = event;
  position.instant = Arrival{address, nth};
  return position;
}

void check_events_and_exits(MachineChoice machine) {
  Replay replay(options_for(steps(), machine));
  const uint64_t event = round_event(3);
  Stop stop = replay.advance({.event = event});
  CHECK(stop.why == Why::event);
  CHECK(stop.event == event);
  CHECK(replay.position() == Position{recording::recording_id(replay.meta()), 0, {}, event, {}});
  // There already.
  for (const uint64_t limit : {event, event - 5, uint64_t{0}})
    CHECK(replay.advance({.event = limit}).why == Why::event);
  CHECK(replay.position().event == event);

  stop = replay.advance({.exit = event + 1});
  CHECK(stop.why == Why::exit);
  CHECK(stop.event == event + 1);
  // getppid() is not answered: RAX is still the call's number.
  CHECK(replay.guest().running().registers().rax == 110);
  CHECK(replay.advance({.exit = event + 1}).why == Why::exit);
  CHECK(replay.guest().running().registers().rax == 110);
  CHECK(replay.advance({.event = event + 1}).why == Why::event);
  // Behind: it does not go on.
  const RegisterWords registers = to_words(replay.guest().running().registers());
  CHECK(replay.advance({.exit = event}).why == Why::exit);
  CHECK(to_words(replay.guest().running().registers()) == registers);

  stop = replay.advance({.event = UINT64_MAX - 1});
  CHECK(stop.why == Why::end);
  const ReplayResult& result = replay.result();
  CHECK((result.ended && !result.truncated && !result.signaled));
  CHECK(result.events == stop.event);
  CHECK_FALSE(result.checkpoint);
  CHECK(replay.advance().why == Why::end);
  CHECK(replay.advance({.event = stop.event}).why == Why::event);
}

void check_arrivals(MachineChoice machine) {
  const uint64_t step = value_of(tell_step), leaf = value_of(tell_leaf), before = before_round(7);
  Replay replay(options_for(steps(), machine));
  Stop stop = replay.advance({.position = arrival(before, step, 4)});
  REQUIRE(stop.why == Why::position);
  CHECK(stop.event == before);
  CHECK(stop.address == step);
  CHECK(replay.guest().running().registers().rip == step);
  CHECK(replay.guest().running().registers().rdi == 3);
  CHECK(replay.position() ==
        Position{recording::recording_id(replay.meta()), 0, {}, before, Arrival{step, 4}});
  // Within a segment nobody has counted the arrivals anywhere else. The next one's are.
  stop = replay.advance({.position = arrival(before_round(8), leaf, 2)});
  REQUIRE(stop.why == Why::position);
  CHECK(stop.address == leaf);
  CHECK(error_of([&] { replay.advance({.position = arrival(before_round(8), step, 6)}); })->kind() ==
        ErrorKind::usage);
}

// Several places, each in a replay of its own, then the end from there.
void check_each_arrival(MachineChoice machine) {
  const uint64_t step = value_of(tell_step), leaf = value_of(tell_leaf);
  struct Case {
    uint64_t round, address, nth, argument;
  };
  for (const Case& c : {Case{0, step, 1, 0}, Case{7, step, 8, 7}, Case{9, leaf, 5, 9}, Case{9, step, 2, 1}}) {
    INFO(c.round << ": " << c.nth);
    Replay replay(options_for(steps(), machine));
    REQUIRE(replay.advance({.position = arrival(before_round(c.round), c.address, c.nth)}).why ==
            Why::position);
    CHECK(replay.guest().running().registers().rip == c.address);
    CHECK(replay.guest().running().registers().rdi == c.argument);
    CHECK(ends_well(replay));
  }
}

void check_missed_positions(MachineChoice machine) {
  const uint64_t step = value_of(tell_step), last = [] {
    recording::Reader reader(steps());
    uint64_t number = 0;
    while (reader.next() != nullptr) number = reader.number();
    return number;
  }();
  const auto error_at = [&](const Position& position, uint64_t first = 0) {
    Replay replay(options_for(steps(), machine));
    replay.advance({.event = first});
    const auto error = error_of([&] { replay.advance({.position = position}); });
    REQUIRE(error);
    CHECK(error->kind() == ErrorKind::usage);
    return std::string(error->what());
  };
  CHECK_THAT(error_at(arrival(before_round(2), step, 4)), Contains("#4") && Contains("without it"));
  CHECK_THAT(error_at(arrival(before_round(2), 0x10, 1)), Contains("+0x10#1") && Contains("without it"));
  CHECK_THAT(error_at(arrival(before_round(2), step, 1), round_event(5)), Contains("can't get there"));
  CHECK_THAT(error_at(arrival(last + 10, step, 1)), Contains("can't get there"));
  Position plain;
  plain.event = round_event(2);
  CHECK_THAT(error_at(plain, round_event(5)), Contains("can't get there"));
  // No segment follows the last event, and nothing is behind the end.
  CHECK_THAT(error_at(plain, UINT64_MAX - 1), Contains("can't get there"));
  CHECK_THAT(error_at(arrival(last - 1, step, 1), last - 1), Contains("can't get there"));
  Position foreign = plain;
  foreign.recording = recording::recording_id(recording::read_meta(steps())) + 1;
  CHECK_THAT(error_at(foreign), Contains("another recording"));
  FullState nowhere{step, 1, {}};
  Position never{{}, 0, 0, before_round(2), nowhere};
  CHECK_THAT(error_at(never), Contains("without it"));

  Replay replay(options_for(steps(), machine));
  plain.event = last - 1;
  CHECK(replay.advance({.position = plain}).why == Why::position);
}

void check_full_state(MachineChoice machine, MachineChoice other) {
  const uint64_t step = value_of(tell_step), leaf = value_of(tell_leaf);
  Position there;
  RegisterWords registers{};
  {
    Replay replay(options_for(steps(), machine));
    REQUIRE(replay.advance({.position = arrival(before_round(8), step, 3)}).why == Why::position);
    // Nobody has counted from the segment's start.
    replay.add_breakpoint(leaf);
    for (int i = 0; i < 2; ++i) {
      const Stop stop = replay.advance();
      REQUIRE(stop.why == Why::breakpoint);
      CHECK(stop.address == leaf);
    }
    there = replay.position();
    REQUIRE(std::holds_alternative<FullState>(there.instant));
    CHECK(std::get<FullState>(there.instant).rip == leaf);
    registers = to_words(replay.guest().running().registers());
    replay.remove_breakpoint(leaf);
    CHECK(ends_well(replay));
  }
  for (const MachineChoice choice : {machine, other})
    for (const bool from_text : {false, true}) {
      Replay replay(options_for(steps(), choice));
      const Position position = from_text ? recording::parse_position(to_text(there)) : there;
      const Stop stop = replay.advance({.position = position});
      REQUIRE(stop.why == Why::position);
      CHECK(stop.address == leaf);
      CHECK(to_words(replay.guest().running().registers()) == registers);
      CHECK(replay.guest().running().registers().rdi == 5);  // step()'s, the second odd one from 2 on
      CHECK(replay.position() == there);
      CHECK(ends_well(replay));
    }
}

void check_breakpoints(MachineChoice machine) {
  const uint64_t step = value_of(tell_step), leaf = value_of(tell_leaf);
  Replay replay(options_for(steps(), machine));
  replay.add_breakpoint(step);
  uint64_t stops = 0;
  // Before the instruction, each once, in every round.
  for (uint64_t round = 0; round < 4; ++round)
    for (uint64_t i = 0; i <= round; ++i, ++stops) {
      const Stop stop = replay.advance({.event = round_event(3)});
      REQUIRE(stop.why == Why::breakpoint);
      CHECK(stop.address == step);
      CHECK(replay.guest().running().registers().rip == step);
      CHECK(replay.guest().running().registers().rdi == i);
      CHECK(replay.position().instant == decltype(Position::instant)(Arrival{step, i + 1}));
      // Guest memory seems to have none.
      std::array<std::byte, 1> byte{};
      REQUIRE(replay.guest().read(step, byte));
      CHECK(byte[0] != std::byte{0xcc});
    }
  CHECK(replay.advance({.event = round_event(3)}).why == Why::event);
  // Two in one go, and one of them goes away while the guest stands on it.
  replay.add_breakpoint(leaf);
  CHECK(replay.advance().address == step);
  CHECK(replay.advance().address == step);
  CHECK(replay.advance().address == leaf);
  replay.remove_breakpoint(leaf);
  CHECK(replay.advance().address == step);
  replay.remove_breakpoint(step);
  replay.remove_breakpoint(step);  // not there: nothing
  CHECK(ends_well(replay));
}

// At an address where there is no memory for long, then code that answers write, map over and trap.
void check_breakpoints_in_changing_code(MachineChoice machine, uint64_t offset) {
  const uint64_t code = value_of(tell_code) + offset;
  Replay replay(options_for(steps(), machine));
  replay.add_breakpoint(code);
  const uint64_t over = event_of(tell_code_over);
  uint64_t stops = 0;
  for (Stop stop; (stop = replay.advance({.event = over})).why == Why::breakpoint; ++stops) {
    REQUIRE(stop.address == code);
    CHECK(stop.event > event_of(tell_code));
    REQUIRE(stops < 100);
  }
  // Written twice and run 3 and 2 times, with the RET at 5; then with CPUID there, run twice three times.
  CHECK(stops == 3 + 2 + 6);
  CHECK(ends_well(replay));
}

// Set before a start from a checkpoint, in memory whose contents the checkpoint brings.
void check_breakpoints_from_checkpoints(MachineChoice machine) {
  const Workplace place;
  std::filesystem::copy(steps(), place / "recording", std::filesystem::copy_options::recursive);
  REQUIRE(run_tool({"checkpoint", "--machine=soft", "--every", "0", "recording"}, place.path()).status == 0);
  const uint64_t code = value_of(tell_code), over = event_of(tell_code_over);
  std::vector<uint64_t> stops;  // the events after which they came, in one replay from the start
  for (uint64_t start = 0; start < over; start = start == 0 ? event_of(tell_code) : start + 1) {
    ReplayOptions options = options_for(place / "recording", machine);
    options.start_near = start;
    Replay replay(options);
    replay.add_breakpoint(code);
    std::vector<uint64_t> seen;
    for (Stop stop; (stop = replay.advance({.event = over})).why == Why::breakpoint;)
      seen.push_back(stop.event);
    if (start == 0) stops = seen;
    INFO("from event " << start);
    CHECK(replay.result().checkpoint.value_or(0) == start);
    std::erase_if(stops, [&](uint64_t event) { return event < start; });
    CHECK(seen == stops);
    CHECK(ends_well(replay));
  }
}

// The guest overwrites a breakpoint: what it has written is what its memory has.
void check_overwritten_breakpoint(MachineChoice machine) {
  Replay replay(options_for(steps(), machine));
  replay.add_breakpoint(value_of(tell_word));
  replay.advance({.event = round_event(6)});
  std::array<std::byte, 1> byte{};
  REQUIRE(replay.guest().read(value_of(tell_word), byte));
  CHECK(byte[0] == std::byte{6});
  replay.remove_breakpoint(value_of(tell_word));
  REQUIRE(replay.guest().read(value_of(tell_word), byte));
  CHECK(byte[0] == std::byte{6});
  CHECK(ends_well(replay));
}

class Stopper : public Participant {
 public:
  enum class In : uint8_t { reached, applied, running, stopped };
  Stopper(In in, uint64_t when) : in_(in), when_(when) {}
  void attach(Replay& replay) override { replay_ = &replay; }
  void reached(const recording::Event&, uint64_t number) override { seen(In::reached, number); }
  void applied(const recording::Event&, uint64_t number) override { seen(In::applied, number); }
  void running(uint64_t number) override { seen(In::running, number); }
  void stopped(uint64_t address) override { seen(In::stopped, address); }
  void paused(const Stop& stop) override { paused_.push_back(stop); }
  void finished(const ReplayResult&) override { ++finished_; }
  void detach() noexcept override { ++detached_; }

  Replay* replay_ = nullptr;
  std::map<In, std::vector<uint64_t>> seen_;
  std::vector<Stop> paused_;
  int finished_ = 0, detached_ = 0;

 private:
  const In in_;
  const uint64_t when_;
  void seen(In in, uint64_t number) {
    seen_[in].push_back(number);
    if (in == in_ && number == when_) replay_->stop(*this);
  }
};

void check_stopping_participants(MachineChoice machine) {
  const uint64_t event = round_event(4), step = value_of(tell_step);
  struct Case {
    Stopper::In in;
    uint64_t when;
    uint64_t answered;  // when it stops
  };
  using In = Stopper::In;
  for (const Case& c : {Case{In::reached, event, event - 1}, Case{In::applied, event, event},
                        Case{In::running, event, event}, Case{In::stopped, step, before_round(0)}}) {
    INFO(static_cast<int>(c.in));
    Stopper stopper(c.in, c.when), other(c.in, UINT64_MAX);
    {
      ReplayOptions options = options_for(steps(), machine);
      options.participants = {&stopper, &other};
      Replay replay(options);
      if (c.in == In::stopped) replay.guest().breakpoints().add_waiting(step);  // as participants set theirs
      const Stop stop = replay.advance();
      CHECK(stop.why == Why::participant);
      CHECK(stop.participant == &stopper);
      CHECK(stop.event == c.answered);
      CHECK(replay.position().event == c.answered);
      for (const Stopper* one : {&stopper, &other}) {
        REQUIRE(one->paused_.size() == 1);
        CHECK(one->paused_[0].why == Why::participant);
        CHECK(one->paused_[0].participant == &stopper);
        CHECK(one->seen_.at(c.in).back() == c.when);
      }
      while (replay.advance().why == Why::participant) continue;
      CHECK(replay.result().ended);
      if (c.in == In::stopped) replay.guest().breakpoints().remove(step);
    }
    for (const Stopper* one : {&stopper, &other}) {
      CHECK(one->finished_ == 1);
      CHECK(one->detached_ == 1);
      // Nobody was told of anything twice, or out of turn.
      for (const In in : {In::reached, In::applied, In::running}) {
        const auto& seen = one->seen_.at(in);
        CHECK(std::adjacent_find(seen.begin(), seen.end(), std::greater_equal<>()) == seen.end());
      }
    }
  }
}

class Attached : public Stopper {
 public:
  Attached() : Stopper(In::applied, UINT64_MAX) {}
  void applied(const recording::Event& event, uint64_t number) override {
    if (seen_.empty()) first_ = event;
    Stopper::applied(event, number);
  }
  recording::Event first_;
};

void check_attaching(MachineChoice machine) {
  const uint64_t event = event_of(tell_code_over);
  Attached attached, early;
  Replay replay(options_for(steps(), machine));
  replay.attach(early);  // before the start: nothing is made up
  CHECK(early.seen_.empty());
  replay.advance({.event = event});
  replay.attach(attached);
  REQUIRE(attached.seen_[Stopper::In::applied] == std::vector<uint64_t>{event});
  const recording::Event& first = attached.first_;
  CHECK(first.kind == recording::EventKind::start);
  CHECK(first.writes.empty());
  CHECK(first.time_ns == replay.time_ns());
  std::vector<std::array<uint64_t, 3>> described, actual;
  for (const recording::SpaceOp& op : first.space_ops) described.push_back({op.address, op.length, op.prot});
  for (const auto& [start, mapping] : replay.guest().space().mappings())
    actual.push_back({start, mapping.end - start, static_cast<uint64_t>(mapping.prot)});
  CHECK(described == actual);
  CHECK(early.first_.kind == recording::EventKind::start);
  CHECK(early.seen_.at(Stopper::In::applied).front() == 0);

  replay.advance({.event = event + 2});
  CHECK(attached.seen_.at(Stopper::In::applied) == std::vector<uint64_t>{event, event + 1, event + 2});
  CHECK(attached.seen_.at(Stopper::In::running) == std::vector<uint64_t>{event, event + 1});
  replay.detach(attached);
  CHECK(attached.detached_ == 1);
  replay.detach(attached);
  CHECK(attached.detached_ == 1);
  CHECK(ends_well(replay));
  CHECK(attached.finished_ == 0);
  CHECK(early.finished_ == 1);
  CHECK(attached.seen_.at(Stopper::In::applied).back() == event + 2);
}

// Changes the guest's memory behind its back.
class Bender : public Participant {
 public:
  Bender(uint64_t event, uint64_t address) : event_(event), address_(address) {}
  void attach(Replay& replay) override { guest_ = &replay.guest(); }
  void applied(const recording::Event&, uint64_t number) override {
    if (number == event_) guest_->space().write(address_, &bent_, sizeof bent_);
  }
  std::string explain(const recording::Event&, uint64_t number) override {
    return "bent before event " + std::to_string(number);
  }
  void detach() noexcept override { ++detached_; }
  int detached_ = 0;

 private:
  const uint64_t event_, address_, bent_ = 0x5a5a;
  Guest* guest_ = nullptr;
};

void check_divergence(MachineChoice machine) {
  Bender bender(before_round(5), value_of(tell_step));  // code
  {
    ReplayOptions options = options_for(steps(), machine);
    options.participants = {&bender};
    Replay replay(options);
    try {
      replay.advance();
      FAIL("no divergence");
    } catch (const Divergence& divergence) {
      CHECK(divergence.event() == round_event(5));
      CHECK_THAT(divergence.what(),
                 Contains("bent before event " + std::to_string(round_event(5))) && !Contains("checkpoint"));
    }
    CHECK(bender.detached_ == 0);
  }
  CHECK(bender.detached_ == 1);
}

// Of both processes one goes to the end before the other goes on.
void check_fork(MachineChoice machine, bool child_first) {
  const auto told = told_by(steps());
  std::vector<uint64_t> events = {0};  // before the first advance(), too
  for (auto [it, end] = told.equal_range(tell_sharing); it != end; ++it)
    if (it->second.value % 25 == 1) events.push_back(it->second.event);
  for (const uint64_t event : events) {
    INFO("at event " << event);
    Replay replay(options_for(steps(), machine));
    if (event != 0) replay.advance({.event = event});
    replay.add_breakpoint(value_of(tell_leaf));  // which is passed, or in the child taken out again
    std::array<int, 2> ends{};
    REQUIRE(pipe(ends.data()) == 0);
    const pid_t child = replay.fork();
    if (child == 0) {
      end_child([&] {
        close(ends[1]);
        char byte = 0;
        if (!child_first && read(ends[0], &byte, 1) != 0) return false;
        replay.remove_breakpoint(value_of(tell_leaf));
        return ends_well(replay);
      });
    }
    close(ends[0]);
    int status = child_first ? exit_status_of(child) : 0;
    CHECK(ends_well(replay));
    close(ends[1]);
    if (!child_first) status = exit_status_of(child);
    CHECK(status == 0);
  }
}

// What the other process writes is not seen at all, in memory of any kind.
void check_fork_separates(MachineChoice machine) {
  const auto told = told_by(steps());
  std::vector<uint64_t> shared;
  for (auto [it, end] = told.equal_range(tell_shared); it != end; ++it) shared.push_back(it->second.value);
  REQUIRE(shared.size() == 5);
  const uint64_t event = [&] {
    for (auto [it, end] = told.equal_range(tell_sharing); it != end; ++it)
      if (it->second.value == 30) return it->second.event;
    return uint64_t{0};
  }();
  Replay replay(options_for(steps(), machine));
  replay.advance({.event = event});
  const auto contents = [&] {
    std::vector<std::byte> all(5 * 8192);
    for (size_t i = 0; i < 5; ++i)
      REQUIRE(replay.guest().read(shared[i], std::span(all).subspan(i * 8192, 8192)));
    return all;
  };
  const std::vector<std::byte> before = contents();
  const recording::Digest128 digest = replay.guest().memory_digest();
  const pid_t child = replay.fork();
  if (child == 0)
    end_child([&] {
      return contents() == before && replay.guest().memory_digest() == digest && ends_well(replay);
    });
  CHECK(exit_status_of(child) == 0);
  CHECK((contents() == before));
  CHECK(replay.guest().memory_digest() == digest);
  const Stop stop = replay.advance({.event = event + 20});
  CHECK(stop.why == Why::event);
  CHECK((contents() != before));
  CHECK(ends_well(replay));
}

// A child may be forked again, and a replay more than once.
void check_fork_again(MachineChoice machine) {
  Replay replay(options_for(steps(), machine));
  std::vector<pid_t> children;
  for (const uint64_t round : {2, 5, 8}) {
    replay.advance({.event = round_event(round)});
    const pid_t child = replay.fork();
    if (child == 0)
      end_child([&] {
        replay.advance({.event = round_event(9)});
        const pid_t grandchild = replay.fork();
        if (grandchild == 0) end_child([&] { return ends_well(replay); });
        return ends_well(replay) && exit_status_of(grandchild) == 0;
      });
    children.push_back(child);
  }
  CHECK(ends_well(replay));
  for (const pid_t child : children) CHECK(exit_status_of(child) == 0);
}

void check_fork_is_refused_elsewhere() {
  Replay replay(options_for(steps(), kSoft));
  replay.advance({.event = round_event(2)});
  replay.add_breakpoint(value_of(tell_leaf));
  REQUIRE(replay.advance().why == Why::breakpoint);
  CHECK(error_of([&] { replay.fork(); })->kind() == ErrorKind::internal);
}

}  // namespace

#define ON_EACH(name, call) ON_EACH_MACHINE(name, steps(), call)

ON_EACH("replay: stops at events, at exits and at the end", check_events_and_exits(machine))
ON_EACH("replay: arrivals are counted from the segment's start", check_arrivals(machine))
ON_EACH("replay: any arrival is reached, and the end from there", check_each_arrival(machine))
ON_EACH("replay: a position that is not to be had is named", check_missed_positions(machine))
ON_EACH("replay: a full state is the same instant again", check_full_state(machine, kSoft))
ON_EACH("replay: breakpoints stop before the instruction", check_breakpoints(machine))
ON_EACH("replay: breakpoints wait for memory and outlive what answers do to it",
        check_breakpoints_in_changing_code(machine, 0))
ON_EACH("replay: breakpoints on trapped instructions", check_breakpoints_in_changing_code(machine, 5))
ON_EACH("replay: breakpoints set before a start from a checkpoint",
        check_breakpoints_from_checkpoints(machine))
ON_EACH("replay: a breakpoint that the guest overwrites", check_overwritten_breakpoint(machine))
ON_EACH("replay: participants stop it from anywhere", check_stopping_participants(machine))
ON_EACH("replay: participants come and go", check_attaching(machine))
ON_EACH("replay: a divergence ends it", check_divergence(machine))
ON_EACH("fork: both go on to the end, the child first", check_fork(machine, true))
ON_EACH("fork: both go on to the end, the parent first", check_fork(machine, false))
ON_EACH("fork: memory is not shared", check_fork_separates(machine))
ON_EACH("fork: more than once", check_fork_again(machine))

TEST_CASE("CPUID in code that is written where it runs is told as a likely reason for a divergence") {
  AddressSpace space;
  const uint64_t code = kMainWindow.start + 0x10000;
  constexpr std::array<uint8_t, 4> kCpuid = {0x90, 0x0f, 0xa2, 0xc3};
  REQUIRE(space.map_anonymous({code, code + 2 * kPageSize}, PROT_READ | PROT_WRITE, false) == 0);
  REQUIRE(space.write(code + kPageSize, kCpuid.data(), kCpuid.size()));
  CHECK(untrapped_code(space).empty());
  REQUIRE(space.protect({code, code + 2 * kPageSize}, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
  CHECK_THAT(untrapped_code(space), Contains(fmt::format("cpuid at {:#x}", code + kPageSize + 1)));
}

TEST_CASE("fork: refused within a segment") { check_fork_is_refused_elsewhere(); }

}  // namespace aftercheck::test
