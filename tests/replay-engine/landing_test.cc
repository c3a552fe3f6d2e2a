// Asynchronous events among arrivals at the same address with the same registers: only the right one will do.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <set>

#include "machine/page_map.h"
#include "replay_fixture.h"
#include "rewritten.h"

namespace aftercheck::test {
namespace {

using Catch::Matchers::Contains;
using recording::Event;
using recording::EventKind;

constexpr uint8_t kRcx = register_number(&Registers::rcx), kFlags = register_number(&Registers::rflags);

enum { tell_memory = 1, tell_vector, tell_counter, tell_begin, tell_sealed, tell_register };

const std::filesystem::path& repeats() {
  static const Workplace place;
  static const std::filesystem::path recording = [] {
    record_bare(place, REPEATS_GUEST);
    return place / "recording";
  }();
  return recording;
}

uint64_t value_of(uint64_t what) { return told_by(repeats()).find(what)->second.value; }
// The event whose segment has the loop.
uint64_t begin_of(uint64_t loop) {
  const auto told = told_by(repeats());
  for (auto [it, end] = told.equal_range(tell_begin); it != end; ++it)
    if (it->second.value == loop) return it->second.event;
  FAIL("no loop " << loop);
  return 0;
}

uint64_t counter_of(Guest& guest) {
  uint64_t value = 0;
  REQUIRE(guest.read(value_of(tell_counter), std::as_writable_bytes(std::span(&value, 1))));
  return value;
}
// XMM0's low half.
uint64_t vector_of(Guest& guest) {
  uint64_t value = 0;
  const FpuState fpu = guest.vcpu().fpu();
  std::memcpy(&value, &fpu.fxsave[160], sizeof value);  // SDM vol. 1, table 10-2
  return value;
}

// Registers at every exit, and what the guest counts when it is at the one with this number.
class Watcher : public Participant {
 public:
  explicit Watcher(uint64_t number) : number_(number) {}
  void attach(Replay& replay) override { guest_ = &replay.guest(); }
  void reached(const Event&, uint64_t number) override {
    words_[number] = canonical_state(guest_->running().registers());
    if (number != number_) return;
    counter_ = counter_of(*guest_);
    vector_ = vector_of(*guest_);
  }
  std::map<uint64_t, RegisterWords> words_;
  uint64_t counter_ = UINT64_MAX, vector_ = UINT64_MAX;

 private:
  const uint64_t number_;
  Guest* guest_ = nullptr;
};

struct Instant {
  uint64_t after;    // the event before it
  uint64_t address;  // of its arrivals
  uint64_t nth;
};

// The guest is there now.
std::unique_ptr<Replay> replay_to(const Instant& instant, Watcher& watcher, MachineChoice machine = kSoft) {
  ReplayOptions options = options_for(repeats(), machine);
  options.participants = {&watcher};
  auto replay = std::make_unique<Replay>(options);
  recording::Position position;
  position.event = instant.after;
  position.instant = recording::Arrival{instant.address, instant.nth};
  REQUIRE(replay->advance({.position = position}).why == Stop::Why::position);
  return replay;
}

// All of the guest's own pages, as the recorder has them.
std::vector<recording::MemoryDigest> memory_of(Guest& guest) {
  std::vector<recording::MemoryDigest> digests;
  const PageMap pages;
  for (const auto& [start, mapping] : guest.space().mappings())
    pages.own_pages(mapping, 1 << 20, [&](Range run) {
      std::vector<std::byte> bytes(run.size());
      REQUIRE(guest.read(run.start, bytes));
      digests.push_back({run.start, run.size(), recording::digest128(bytes)});
    });
  REQUIRE_FALSE(digests.empty());
  return digests;
}

// The recording with an asynchronous event at that instant, whose answer leaves the guest as it is. `sample`:
// an address near which a sample stands before the other digests.
void insert_event(const std::filesystem::path& to, const Instant& instant, uint64_t sample,
                  const std::function<void(Event&)>& change = {}) {
  Watcher watcher(0);
  const std::unique_ptr<Replay> replay = replay_to(instant, watcher);
  Guest& guest = replay->guest();
  Event event;
  event.kind = EventKind::asynchronous;
  event.rip = instant.address;
  event.memory = memory_of(guest);
  if (sample != 0) {
    std::array<std::byte, 64> line{};
    REQUIRE(guest.read(sample & ~uint64_t{63}, line));
    event.memory.insert(event.memory.begin(), {sample & ~uint64_t{63}, 64, recording::digest128(line)});
  }
  const FpuState fpu = guest.vcpu().fpu();
  event.fpu_digest = recording::digest64(canonical_fpu(fpu));
  event.fpu.assign(fpu.fxsave.begin(), fpu.fxsave.end());
  event.registers = {{kFlags, guest.running().registers().rflags}};
  const RegisterWords words = canonical_state(guest.running().registers());
  event.operands.assign(words.begin(), words.end());
  REQUIRE(ends_well(*replay));

  recording::RunningDigest running;
  rewrite(repeats(), to, [&](const Event& original, uint64_t number) {
    std::vector<Event> events = {original};
    if (watcher.words_.contains(number)) events[0].digest = running.update(watcher.words_.at(number));
    if (number == instant.after) {
      event.time_ns = original.time_ns;
      event.digest = running.update(words);
      if (change) change(event);
      events.push_back(event);
    }
    return events;
  });
}

constexpr uint64_t kNths[] = {1, 2, 7, 20};

// Replays the recording with an asynchronous event at that instant, and gives what the guest is when it has
// landed there.
Watcher land(const Instant& instant, MachineChoice machine, uint64_t sample = 0,
             const std::function<void(Event&)>& change = {}, bool untrusted = false) {
  const Workplace place;
  insert_event(place / "bent", instant, sample, change);
  Watcher watcher(instant.after + 1);
  ReplayOptions options = options_for(place / "bent", machine);
  options.participants = {&watcher};
  options.untrusted = untrusted;
  Replay replay(options);
  CHECK(ends_well(replay));
  return watcher;
}

void check_memory(MachineChoice machine, bool with_sample) {
  for (const uint64_t nth : kNths) {
    INFO(nth);
    const Instant instant{begin_of(0), value_of(tell_memory), nth};
    const Watcher landed = land(instant, machine, with_sample ? value_of(tell_counter) : 0);
    CHECK(landed.counter_ == nth - 1);
  }
}

void check_vector(MachineChoice machine) {
  for (const uint64_t nth : kNths) {
    INFO(nth);
    const Watcher landed = land({begin_of(1), value_of(tell_vector), nth}, machine);
    CHECK(landed.vector_ == nth - 1);
  }
}

// Of the loop that counts in RCX: the first arrival whose digest an earlier one has, too.
uint64_t second_with_its_digest(const Instant& first) {
  Watcher watcher(0);
  const std::unique_ptr<Replay> replay = replay_to(first, watcher);
  RegisterWords words = canonical_state(replay->guest().running().registers());
  recording::RunningDigest running;
  for (const auto& [number, at_exit] : watcher.words_)
    if (number <= first.after) running.update(at_exit);
  std::set<uint32_t> seen;
  constexpr uint64_t kArrivals = 400'000;  // no two the same: one in 10^8 runs
  for (uint64_t nth = 1; nth <= kArrivals; ++nth) {
    words[kRcx] = nth - 1;
    if (!seen.insert(running.peek(words)).second) return nth;
  }
  FAIL("all arrivals have digests of their own");
  return 0;
}

void check_same_digest(MachineChoice machine) {
  Instant instant{begin_of(2), value_of(tell_register), 1};
  instant.nth = second_with_its_digest(instant);
  const Watcher landed = land(instant, machine);
  CHECK(landed.words_.at(instant.after + 1)[kRcx] == instant.nth - 1);
}

// A state that the guest is never in, in each part of it.
void check_never(MachineChoice machine) {
  struct Case {
    const char* name;
    void (*change)(Event&);
  };
  for (const Case& c :
       {Case{"registers", [](Event& e) { e.operands[kRcx] ^= 1; }},
        Case{"their digest", [](Event& e) { e.digest ^= 1; }},
        Case{"a sample", [](Event& e) { e.memory.front().digest[0] ^= 1; }},
        Case{"memory", [](Event& e) { e.memory.back().digest[0] ^= 1; }},
        Case{"FPU", [](Event& e) { *e.fpu_digest ^= 1; }}, Case{"RIP", [](Event& e) { e.rip += 0x1000; }}}) {
    INFO(c.name);
    const Workplace place;
    const Instant instant{begin_of(0), value_of(tell_memory), 7};
    insert_event(place / "bent", instant, value_of(tell_counter), c.change);
    Replay replay(options_for(place / "bent", machine));
    try {
      ends_well(replay);
      FAIL("no divergence");
    } catch (const Divergence& divergence) {
      CHECK(divergence.event() == instant.after + 1);
      CHECK_THAT(divergence.what(), Contains("without passing the recorded state"));
    }
  }
}

// Does one of them cover the address?
bool covers(const std::vector<recording::MemoryDigest>& digests, uint64_t address) {
  return std::ranges::any_of(digests, [&](const recording::MemoryDigest& digest) {
    return digest.address <= address && address - digest.address < digest.length;
  });
}

// Whatever instant it is, the recorder writes down all that a landing needs.
void check_recorded(const std::filesystem::path& recording) {
  const uint64_t work = told_by(recording).find(1)->second.value;
  uint64_t asynchronous = 0;
  recording::Reader reader(recording);
  while (const Event* event = reader.next()) {
    if (event->kind != EventKind::asynchronous) continue;
    ++asynchronous;
    INFO("event " << reader.number());
    CHECK(event->operands.size() == kRegisterCount);
    CHECK(event->fpu_digest.has_value());
    // Flags and FPU may differ in a replay where no digest sees it: the answer sets them in any case.
    CHECK(std::ranges::any_of(event->registers, [](const auto& change) { return change.number == kFlags; }));
    CHECK(event->fpu.size() == sizeof(FpuState::fxsave));
    // Samples first, then everything: the loop's variable is in a sample and in the rest.
    std::vector<recording::MemoryDigest> samples, rest;
    for (const recording::MemoryDigest& digest : event->memory)
      (digest.length <= 256 ? samples : rest).push_back(digest);
    CHECK(covers(samples, work));
    CHECK(covers(rest, work));
    CHECK(event->memory.front().length <= 256);
  }
  CHECK(asynchronous >= 2);  // a timer may hit the call that sets it, if the host is slow
}

void check_alarms(MachineChoice machine) {
  const Workplace place;
  record_bare(place, ALARMS_GUEST);
  check_recorded(place / "recording");
  {
    Replay replay(options_for(place / "recording", machine));
    CHECK(ends_well(replay));
  }
  // As earlier versions recorded it.
  rewrite(place / "recording", place / "earlier", [](const Event& event, uint64_t) {
    std::vector<Event> events = {event};
    if (event.kind == EventKind::asynchronous) events[0].operands.clear();
    return events;
  });
  Replay replay(options_for(place / "earlier", machine));
  CHECK(ends_well(replay));
}

// How many the guest has executed since the event before.
uint64_t branches_at(const Instant& instant) {
  Watcher watcher(0);
  return replay_to(instant, watcher, kTranslated)->guest().vcpu().branches();
}

// With a count. On KVM another machine counts.
void check_counted(MachineChoice machine) {
  const Instant memory{begin_of(0), value_of(tell_memory), 1}, vector{begin_of(1), value_of(tell_vector), 1};
  for (const Instant& first : {memory, vector}) {
    const uint64_t before = branches_at(first);
    for (const uint64_t nth : kNths) {
      INFO(nth);
      const Instant instant{first.after, first.address, nth};
      const uint64_t branches = branches_at(instant);
      CHECK(branches == before + nth - 1);  // one closes the loop
      const Watcher landed = land(instant, machine, 0, [&](Event& e) { e.branches = branches; });
      CHECK((first.address == memory.address ? landed.counter_ : landed.vector_) == nth - 1);
    }
  }
}

// The count decides, not the first arrival with the state, and it proves nothing alone.
void check_counted_never(MachineChoice machine) {
  const Instant instant{begin_of(0), value_of(tell_memory), 7};
  const uint64_t branches = branches_at(instant);
  constexpr const char* kPassed = "more branches";
  constexpr const char* kExit = "getppid";
  struct Case {
    const char* name;
    uint64_t branches;
    const char* came;
    uint64_t arrivals;
    void (*change)(Event&) = [](Event&) {};
    bool watched = false;  // by somebody with a breakpoint there
  };
  for (const Case& c :
       {Case{"one more", branches + 1, kPassed, 1}, Case{"one less", branches - 1, kPassed, 1},
        Case{"one more, watched", branches + 1, kPassed, 1, [](Event&) {}, true},
        Case{"more than there are", branches + 1'000'000, kExit, 0},
        Case{"the most", UINT64_MAX - 1, kExit, 0},
        Case{"other registers", branches, kPassed, 1, [](Event& e) { e.operands[kRcx] ^= 1; }},
        Case{"other memory", branches, kPassed, 1, [](Event& e) { e.memory.back().digest[0] ^= 1; }},
        Case{"another FPU", branches, kPassed, 1, [](Event& e) { *e.fpu_digest ^= 1; }}}) {
    INFO(c.name);
    const Workplace place;
    insert_event(place / "bent", instant, 0, [&](Event& e) {
      e.branches = c.branches;
      c.change(e);
    });
    ReplayOptions options = options_for(place / "bent", machine);
    options.system_call_name = [](uint64_t) { return std::string(kExit); };
    Replay replay(options);
    if (c.watched) replay.add_breakpoint(instant.address);
    try {
      ends_well(replay);
      FAIL("no divergence");
    } catch (const Divergence& divergence) {
      CHECK(divergence.event() == instant.after + 1);
      CHECK_THAT(divergence.actual(), Contains(c.came));
      CHECK_THAT(divergence.detail(),
                 Contains(fmt::format(
                     "without passing the recorded state at {:#x} after {} branches ({} arrivals there)",
                     instant.address, c.branches, c.arrivals)));
    }
  }
}

// Others who stop the guest on the way see all that they would see without a count.
void check_counted_stops(MachineChoice machine) {
  const Instant instant{begin_of(0), value_of(tell_memory), 7};
  const Workplace place;
  const uint64_t branches = branches_at(instant);
  insert_event(place / "bent", instant, 0, [&](Event& e) { e.branches = branches; });
  constexpr uint64_t kCompareAfter = 7, kBranchAfter = 15;  // the INC before it; the CMP, too
  for (const uint64_t address :
       {instant.address, instant.address + kCompareAfter, instant.address + kBranchAfter}) {
    INFO(address);
    Watcher watcher(instant.after + 1);
    ReplayOptions options = options_for(place / "bent", machine);
    options.participants = {&watcher};
    Replay replay(options);
    recording::Position third;
    third.event = instant.after;
    third.instant = recording::Arrival{instant.address, 3};
    REQUIRE(replay.advance({.position = third}).why == Stop::Why::position);
    CHECK(counter_of(replay.guest()) == 2);
    replay.add_breakpoint(address);
    std::vector<uint64_t> seen;
    for (Stop stop; (stop = replay.advance({.exit = instant.after + 1})).why == Stop::Why::breakpoint;)
      seen.push_back(counter_of(replay.guest()));
    // At the third arrival the guest stands already.
    const bool there = address == instant.address;
    CHECK(seen == (there ? std::vector<uint64_t>{2, 3, 4, 5} : std::vector<uint64_t>{3, 4, 5, 6}));
    CHECK(watcher.counter_ == 6);
    replay.remove_breakpoint(address);
    CHECK(ends_well(replay));
  }
}

// As a recorder counts. A copy of the replay counts for itself.
void check_recorded_counts(MachineChoice machine) {
  const Workplace place;
  record_bare(place, ALARMS_GUEST, {}, "translated");
  check_recorded(place / "recording");
  uint64_t asynchronous = 0;
  recording::Reader reader(place / "recording");
  while (const Event* event = reader.next()) {
    CHECK(event->branches.has_value() == (event->kind == EventKind::asynchronous));
    if (event->branches) asynchronous = reader.number();
  }
  REQUIRE(asynchronous != 0);
  Replay replay(options_for(place / "recording", machine));
  replay.advance({.event = asynchronous - 1});
  const pid_t child = replay.fork();
  if (child == 0) end_child([&] { return ends_well(replay); });
  CHECK(exit_status_of(child) == 0);
  CHECK(ends_well(replay));
}

// The FPU of a copy is that of the replay it is made of.
void check_fork(MachineChoice machine) {
  Replay replay(options_for(repeats(), machine));
  replay.advance({.event = begin_of(1) + 1});
  const uint64_t vector = vector_of(replay.guest());
  CHECK(vector == 20);
  const pid_t child = replay.fork();
  if (child == 0) end_child([&] { return vector_of(replay.guest()) == vector && ends_well(replay); });
  CHECK(exit_status_of(child) == 0);
  CHECK(ends_well(replay));
}

}  // namespace

TEST_CASE("memory digests: at the end they are of all that is the guest's own, read-only or not") {
  std::vector<recording::MemoryDigest> last;
  recording::Reader reader(repeats());
  while (const Event* event = reader.next())
    if (!event->memory.empty()) last = event->memory;
  CHECK(covers(last, value_of(tell_sealed)));
  CHECK(covers(last, value_of(tell_counter)));
  for (const recording::MemoryDigest& digest : last) CHECK(digest.length <= 1 << 20);
}

// `needs_count`: on whatever machine, it takes one that counts.
#define ON_EACH(name, call, needs_count)                                                         \
  TEST_CASE(name ", on the soft vCPU") {                                                         \
    constexpr MachineChoice machine = kSoft;                                                     \
    if (!(needs_count) || works_on(kTranslated, repeats())) call;                                \
  }                                                                                              \
  TEST_CASE(name ", on KVM") {                                                                   \
    constexpr MachineChoice machine = kKvm;                                                      \
    if (works_on(kKvm, repeats()) && (!(needs_count) || works_on(kTranslated, repeats()))) call; \
  }                                                                                              \
  TEST_CASE(name ", on the translated machine") {                                                \
    constexpr MachineChoice machine = kTranslated;                                               \
    if (works_on(kTranslated, repeats())) call;                                                  \
  }
#define BY_STATE(name, call) ON_EACH(name, call, false)
#define BY_COUNT(name, call) ON_EACH(name, call, true)

BY_STATE("landing: arrivals that differ in memory only", check_memory(machine, false))
BY_STATE("landing: arrivals that differ in memory only, told apart by a sample", check_memory(machine, true))
BY_STATE("landing: arrivals that differ in an SSE register only", check_vector(machine))
BY_STATE("landing: the same register digest by chance", check_same_digest(machine))
BY_STATE("landing: a state that the guest is never in", check_never(machine))
BY_STATE("landing: what the recorder writes down of an instant", check_alarms(machine))
BY_COUNT("landing: by a count of branches", check_counted(machine))
BY_COUNT("landing: by counts that a recorder made", check_recorded_counts(machine))
BY_COUNT("landing: stops on the way to a count of branches", check_counted_stops(machine))
BY_STATE("fork: the FPU comes along", check_fork(machine))

TEST_CASE("landing: a count of branches at which the guest is never there, on KVM") {
  if (works_on(kKvm, repeats()) && works_on(kTranslated, repeats())) check_counted_never(kKvm);
}
TEST_CASE("landing: a count of branches at which the guest is never there, on the translated machine") {
  if (works_on(kTranslated, repeats())) check_counted_never(kTranslated);
}
TEST_CASE("landing: a count of branches is passed over where none can be had, on the soft vCPU") {
  const Watcher landed =
      land({begin_of(0), value_of(tell_memory), 7}, kSoft, 0, [](Event& e) { e.branches = 0; });
  CHECK(landed.counter_ == 6);
}
TEST_CASE("landing: nobody counts branches of an untrusted recording, on KVM") {
  if (!works_on(kKvm, repeats())) return;
  const Watcher landed = land(
      {begin_of(0), value_of(tell_memory), 7}, kKvm, 0, [](Event& e) { e.branches = 0; }, true);
  CHECK(landed.counter_ == 6);
}

}  // namespace aftercheck::test
