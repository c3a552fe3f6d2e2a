// Recordings with several threads.
#include <asm/unistd.h>

#include <cstring>
#include <set>

#include "checkpoint/checkpoint.h"
#include "machine/registers.h"
#include "replay-engine/checkpointer.h"
#include "replay_fixture.h"
#include "rewritten.h"
#include "thread_recorder.h"

namespace aftercheck::test {
namespace {

using Catch::Matchers::Contains;
using recording::Event;
using recording::EventKind;
using recording::Position;

enum { tell_computed = 1, tell_shared, tell_woken };
constexpr uint8_t kRax = register_number(&Registers::rax);

// What threads.c does, scheduled in slices of changing length.
class Schedule {
 public:
  Schedule(const std::filesystem::path& from, const std::filesystem::path& to) : recorder_(from, to) {
    runnable_ = {0};
    for (unsigned slice = 0; !ended_; ++slice) {
      REQUIRE_FALSE(runnable_.empty());
      REQUIRE(slice < 1000);
      const uint32_t thread = runnable_[slice % runnable_.size()];
      constexpr uint64_t kShortest = 40, kSpread = 523;
      Event event = recorder_.run(thread, slice % 5 == 4 ? UINT64_MAX : kShortest + slice * 131 % kSpread);
      if (event.kind == EventKind::syscall)
        call(event);
      else
        recorder_.log(event);
    }
    recorder_.finish();
  }

 private:
  ThreadRecorder recorder_;
  std::vector<uint32_t> runnable_;
  std::map<uint64_t, uint32_t> sleepers_;  // by the word's address
  bool ended_ = false;

  void answered(Event& event, uint64_t result) {
    event.registers.push_back({kRax, result});
    recorder_.log(event);
  }
  void answer_later(uint32_t thread, uint64_t result, std::span<const std::byte> bytes = {},
                    uint64_t address = 0) {
    Event event = recorder_.event_of(thread, EventKind::answer);
    if (!bytes.empty()) event.writes.push_back({address, bytes});
    answered(event, result);
  }

  void wake(Event& event) {
    const auto sleeper = sleepers_.extract(event.operands[1]);
    answered(event, sleeper.empty() ? 0 : 1);
    if (sleeper.empty()) return;
    runnable_.push_back(sleeper.mapped());
    answer_later(sleeper.mapped(), 0);
  }

  void call(Event& event) {
    const auto& o = event.operands;
    switch (o.at(0)) {
      case __NR_clone: {
        const Event start = recorder_.started(1, event.thread, o.at(2));
        answered(event, 1001);
        recorder_.log(start);
        runnable_.push_back(1);
        return;
      }
      case __NR_read: {  // the other has run meanwhile
        recorder_.log(event);
        Event other = recorder_.run(1, 70);
        if (other.kind == EventKind::syscall)
          call(other);
        else
          recorder_.log(other);
        const std::array<std::byte, 4> got = {std::byte{9}, std::byte{0}, std::byte{0}, std::byte{0}};
        return answer_later(event.thread, got.size(), got, o.at(2));
      }
      case __NR_futex:
        if (o.at(2) == 0) {
          uint32_t value = 0;
          REQUIRE(recorder_.guest().read(o.at(1), std::as_writable_bytes(std::span(&value, 1))));
          if (value != 0) return answered(event, static_cast<uint64_t>(-EAGAIN));
          recorder_.log(event);
          sleepers_[o.at(1)] = event.thread;
          std::erase(runnable_, event.thread);
          return;
        }
        return wake(event);
      case __NR_write: {
        std::vector<std::byte> bytes(o.at(3));
        REQUIRE(recorder_.guest().read(o.at(2), bytes));
        event.outputs.push_back({1, 1, recording::digest64(bytes), {{o.at(2), o.at(3)}}});
        return answered(event, o.at(3));
      }
      case __NR_exit: {
        recorder_.log(event);
        Event end = recorder_.event_of(event.thread, EventKind::thread_end);
        end.operands = {o.at(1)};
        recorder_.log(end);
        std::erase(runnable_, event.thread);
        return;
      }
      case __NR_exit_group: {
        recorder_.add_digests(event);
        recorder_.log(event);
        Event end = recorder_.event_of(event.thread, EventKind::end);
        end.operands = {static_cast<uint64_t>(recording::EndReason::exited), o.at(1)};
        recorder_.log(end);
        ended_ = true;
        return;
      }
      default:
        return answered(event, 1);
    }
  }
};

const std::filesystem::path& started() {
  static const Workplace place;
  static const std::filesystem::path recording = [] {
    record_bare(place, THREADS_GUEST, {"--on-unsupported=continue"});
    return place / "recording";
  }();
  return recording;
}

// Empty where none can be made.
const std::filesystem::path& threads() {
  static const Workplace place;
  static const std::filesystem::path recording = [] {
    try {
      Schedule(started(), place / "recording");
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::host_lacks) throw;
      WARN("SKIPPED: no recording can be made by hand on this host: " << error.what());
      return std::filesystem::path();
    }
    return place / "recording";
  }();
  return recording;
}

// Can it land where a thread was preempted?
bool replays_on(MachineChoice machine) {
  if (threads().empty() || !works_on(machine, threads())) return false;
  Replay replay(options_for(threads(), machine));
  if (replay.guest().counting_vcpu(true) != nullptr) return true;
  WARN("SKIPPED: nothing here counts branches");
  return false;
}

std::vector<Event> events_of(const std::filesystem::path& recording) {
  std::vector<Event> events;
  recording::Reader reader(recording);
  while (const Event* event = reader.next()) {
    events.push_back(*event);
    events.back().writes.clear();  // they go with the chunk
  }
  return events;
}

// The first event of this kind and thread, from `from` on.
uint64_t find(EventKind kind, uint32_t thread, uint64_t from = 0) {
  static const std::vector<Event> events = events_of(threads());
  for (uint64_t i = from; i < events.size(); ++i)
    if (events[i].kind == kind && events[i].thread == thread) return i;
  FAIL("no such event");
  return 0;
}

// Is told of everything, and keeps it.
class Watcher : public Participant {
 public:
  void attach(Replay& replay) override { replay_ = &replay; }
  void reached(const Event& event, uint64_t) override {
    CHECK(replay_->guest().running().number() == event.thread);
    if (event.kind == EventKind::syscall && event.operands.at(3) == 0x7e57)
      told_.push_back({event.thread, event.operands[1], event.operands[2]});
  }
  void applied(const Event& event, uint64_t number) override {
    kinds_.insert(event.kind);
    if (first_ == UINT64_MAX) first_ = number;
    if (number == first_) begun_.push_back(event);
    CHECK(number >= last_);
    last_ = number;
  }
  struct Told {
    uint32_t thread;
    uint64_t what, value;
    auto operator<=>(const Told&) const = default;
  };
  std::vector<Told> told_;
  std::set<EventKind> kinds_;
  uint64_t first_ = UINT64_MAX, last_ = 0;
  std::vector<Event> begun_;
  Replay* replay_ = nullptr;
};

void check_whole(MachineChoice machine) {
  Watcher watcher;
  std::string output;
  ReplayOptions options = options_for(threads(), machine);
  options.output = [&](int, const std::byte* bytes, size_t size) {
    output.append(reinterpret_cast<const char*>(bytes), size);
  };
  options.participants = {&watcher};
  Replay replay(options);
  REQUIRE(ends_well(replay));
  CHECK(replay.result().status == 5);
  CHECK(replay.guest().threads().size() == 1);
  for (const EventKind kind : {EventKind::answer, EventKind::thread_start, EventKind::thread_end,
                               EventKind::preempted, EventKind::syscall})
    CHECK(watcher.kinds_.contains(kind));
  std::set<Watcher::Told> told(watcher.told_.begin(), watcher.told_.end());
  for (const Watcher::Told& one : {Watcher::Told{0, tell_computed, 3 * 500},
                                   {0, tell_computed, 3 * 2 * 400},
                                   {1, tell_computed, 3 * 1001 * 100},
                                   {1, tell_computed, 3 * 1002 * 200},
                                   {1, tell_computed, 3 * 1003 * 300},
                                   {1, tell_woken, 9}})
    CHECK(told.contains(one));
  CHECK(output.size() == 2 * 17);
}

// Positions within segments of either thread, on the way there and back from a copy.
void check_positions(MachineChoice machine) {
  for (const uint32_t thread : {0U, 1U}) {
    const uint64_t end = find(EventKind::preempted, thread, find(EventKind::thread_start, 1) + 4);
    INFO("thread " << thread << ", event " << end);
    std::optional<Replay> replay(std::in_place, options_for(threads(), machine));
    CHECK(replay->advance({.event = end - 1}).why == Stop::Why::event);
    CHECK(replay->guest().running().number() == thread);
    const uint64_t rip = replay->guest().running().registers().rip;
    const std::string text = to_text(replay->position());
    CHECK((text.find("t1.") != std::string::npos) == (thread == 1));
    Position position = recording::parse_position(text);
    position.thread = 1 - thread;
    const auto error = error_of([&] { replay->advance({.position = position}); });
    REQUIRE(error.has_value());
    CHECK(error->kind() == ErrorKind::usage);
    CHECK_THAT(error->what(), Contains(fmt::format("thread {} that runs", thread)));

    // By count of arrivals: the loop comes by again, unless the slice is very short.
    position.thread = thread;
    position.instant = recording::Arrival{rip, 1};
    replay.reset();
    Replay other(options_for(threads(), machine));
    const Stop stop = other.advance({.position = position});
    CHECK(stop.why == Stop::Why::position);
    CHECK(other.guest().running().number() == thread);
    CHECK(other.guest().running().registers().rip == rip);
    CHECK(ends_well(other));
  }
}

void check_copies(MachineChoice machine) {
  for (uint64_t at = find(EventKind::thread_start, 1); at < find(EventKind::thread_end, 1) + 2; at += 3) {
    INFO(at);
    Replay replay(options_for(threads(), machine));
    REQUIRE(replay.advance({.event = at}).why == Stop::Why::event);
    const pid_t child = replay.fork();
    if (child == 0) end_child([&] { return ends_well(replay); });
    CHECK(exit_status_of(child) == 0);
    Watcher late;
    replay.attach(late);
    CHECK(late.begun_.size() == replay.guest().threads().size());
    CHECK(late.begun_.front().kind == EventKind::start);
    if (late.begun_.size() > 1) CHECK(late.begun_.back().kind == EventKind::thread_start);
    CHECK(ends_well(replay));
    replay.detach(late);
  }
}

void check_checkpoints(MachineChoice machine) {
  const Workplace place;
  rewrite(threads(), place / "copy", [](const Event& event, uint64_t) { return std::vector{event}; });
  {
    Checkpointer checkpointer({.directory = place / "copy", .every_ns = 0, .share = 0},
                              [](uint64_t event) { return event != 0; });
    ReplayOptions options = options_for(place / "copy", machine);
    options.participants = {&checkpointer};
    Replay replay(options);
    REQUIRE(ends_well(replay));
  }
  const Checkpoints checkpoints(place / "copy");
  REQUIRE(checkpoints.all().size() > 20);
  for (const Checkpoints::Known& known : checkpoints.all()) {
    INFO(known.event);
    Watcher watcher;
    ReplayOptions options = options_for(place / "copy", machine);
    options.start_near = known.event;
    options.participants = {&watcher};
    options.warning = [](const std::string& text) { FAIL_CHECK(text); };
    Replay replay(options);
    CHECK(ends_well(replay));
    CHECK(replay.result().checkpoint == known.event);
    CHECK(watcher.begun_.size() == Checkpoints::load(known).threads.size());
  }
}

// --- bent ones ---

struct Bend {
  const char* name;
  EventKind kind;
  uint32_t thread;
  // Gives what stands in the event's place.
  std::function<std::vector<Event>(Event)> bend;
  std::optional<ErrorKind> error;
  const char* message;
  bool at_once = true;  // is seen at the event
};

std::function<std::vector<Event>(Event)> changed(void (*change)(Event&)) {
  return [change](Event event) {
    change(event);
    return std::vector{std::move(event)};
  };
}

const std::vector<Bend>& bends() {
  constexpr ErrorKind kBad = ErrorKind::bad_input, kDiverged = ErrorKind::divergence;
  constexpr auto kStart = EventKind::thread_start, kEnd = EventKind::thread_end, kAnswer = EventKind::answer,
                 kPreempted = EventKind::preempted;
  static const std::vector<Bend> cases = {
      {"exit of a thread that never was", kPreempted, 1, changed([](Event& e) { e.thread = 2; }), kBad,
       "thread 2, which was never started"},
      {"never started", kStart, 1, [](Event) { return std::vector<Event>(); }, kBad,
       "thread 1, which was never started", false},
      {"started twice", kStart, 1,
       [](Event e) {
         return std::vector{e, e};
       },
       kBad, "thread 1 starts, and there was one with that number", false},
      {"started as the first", kStart, 1, changed([](Event& e) { e.thread = 0; }), kBad,
       "thread 0 starts, and there was one"},
      {"started with a number that is too large", kStart, 1, changed([](Event& e) { e.thread = 1 << 26; }),
       kBad, "thread 67108864 starts, beyond"},
      {"started again", kEnd, 1,
       [](Event e) {
         Event start = e;
         start.kind = EventKind::thread_start;
         start.operands = {0, 5};
         return std::vector{e, start};
       },
       kBad, "thread 1 starts, and there was one", false},
      {"ended twice", kEnd, 1,
       [](Event e) {
         return std::vector{e, e};
       },
       kBad, "thread 1, which has ended", false},
      {"ended too early", kAnswer, 0,
       [](Event e) {
         Event end = e;
         end.kind = EventKind::thread_end;
         end.thread = 1;
         end.operands = {0};
         end.registers.clear();
         end.writes.clear();
         return std::vector{e, end};
       },
       kBad, "thread 1, which has ended", false},
      {"all threads ended", kAnswer, 0,
       [](Event e) {
         Event end = e;
         end.kind = EventKind::thread_end;
         end.operands = {0};
         end.registers.clear();
         end.writes.clear();
         Event other = end;
         other.thread = 1;
         return std::vector{e, end, other};
       },
       kBad, "which has ended", false},
      {"started without all registers", kStart, 1, changed([](Event& e) { e.registers.pop_back(); }), kBad,
       "not all of its registers"},
      {"started with one register twice", kStart, 1,
       changed([](Event& e) { e.registers[3] = e.registers[4]; }), kBad, "not all of its registers"},
      {"started without an FPU state", kStart, 1, changed([](Event& e) { e.fpu.clear(); }), kBad,
       "not all of its registers"},
      {"started with a register that there is not", kStart, 1,
       changed([](Event& e) { e.registers[3].number = 77; }), kBad, "register number 77"},
      {"started with one operand", kStart, 1, changed([](Event& e) { e.operands.pop_back(); }), kBad,
       "1 operands instead of 2", false},
      {"ended with an answer", kEnd, 1, changed([](Event& e) {
         e.registers = {{0, 1}};
       }),
       kBad, "has an answer", false},
      {"preempted with an answer", kPreempted, 1, changed([](Event& e) {
         e.registers = {{0, 1}};
       }),
       kBad, "has an answer", false},
      {"an answer with output of memory", kAnswer, 0, changed([](Event& e) { e.outputs.emplace_back(); }),
       kBad, "output from memory", false},
      {"a count that nothing reaches", kPreempted, 1, changed([](Event& e) { e.operands[1] = UINT64_MAX; }),
       kBad, "a count of branches", false},
      {"answer for a thread that never was", kAnswer, 0, changed([](Event& e) { e.thread = 2; }), kBad,
       "thread 2, which was never started"},
      {"answer for the other thread", kAnswer, 0, changed([](Event& e) {
         e.thread = 1;
         e.registers = {{register_number(&Registers::r15), 5}};
       }),
       kDiverged, "", false},
      {"no answer", kAnswer, 0, [](Event) { return std::vector<Event>(); }, kDiverged, "", false},
      {"preempted later", kPreempted, 1, changed([](Event& e) { e.operands[1] += 1; }), kDiverged,
       "more branches"},
      {"preempted earlier", kPreempted, 1, changed([](Event& e) { e.operands[1] -= 1; }), kDiverged,
       "more branches"},
      {"preempted very late", kPreempted, 1, changed([](Event& e) { e.operands[1] += 1000000; }), kDiverged,
       "left the segment without passing the recorded state"},
      {"preempted elsewhere", kPreempted, 1, changed([](Event& e) { e.operands[0] += 1; }), kDiverged,
       "0 arrivals there"},
      {"preempted with other registers", kPreempted, 1, changed([](Event& e) { e.digest ^= 1; }), kDiverged,
       "1 arrivals there, at the last of them rax"},
      {"not preempted", kPreempted, 1, [](Event) { return std::vector<Event>(); }, kDiverged, "", false},
      {"preempted twice", kPreempted, 1,
       [](Event e) {
         return std::vector{e, e};
       },
       kDiverged, "", false},
  };
  return cases;
}

void check_bent(MachineChoice machine) {
  for (const Bend& bend : bends()) {
    INFO(bend.name);
    const uint64_t at = find(bend.kind, bend.thread, find(EventKind::thread_start, 1));
    const Workplace place;
    rewrite(threads(), place / "bent", [&](const Event& event, uint64_t number) {
      return number == at ? bend.bend(event) : std::vector{event};
    });
    const auto error = error_of([&] {
      Replay replay(options_for(place / "bent", machine));
      while (replay.advance().why != Stop::Why::end) continue;
    });
    REQUIRE(error.has_value());
    INFO(error->what());
    CHECK(error->kind() == bend.error);
    CHECK_THAT(error->what(), Contains(bend.message) && Contains("event "));
    if (bend.at_once) CHECK_THAT(error->what(), Contains("event " + std::to_string(at)));
  }
}

}  // namespace

#define ON_EACH(name, call)                          \
  TEST_CASE("threads: " name ", on the soft vCPU") { \
    constexpr MachineChoice machine = kSoft;         \
    if (replays_on(machine)) call;                   \
  }                                                  \
  TEST_CASE("threads: " name ", on KVM") {           \
    constexpr MachineChoice machine = kKvm;          \
    if (replays_on(machine)) call;                   \
  }                                                  \
  TEST_CASE("threads: " name ", translated") {       \
    constexpr MachineChoice machine = kTranslated;   \
    if (replays_on(machine)) call;                   \
  }

ON_EACH("a recording is replayed", check_whole(machine))
ON_EACH("positions in segments of each", check_positions(machine))
ON_EACH("copies of a replay", check_copies(machine))
ON_EACH("from checkpoints", check_checkpoints(machine))
ON_EACH("bent recordings are told", check_bent(machine))

}  // namespace aftercheck::test
