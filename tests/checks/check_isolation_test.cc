// Nothing of an excursion reaches the replay; if something did, the replay would say so.
#include "base/error.h"
#include "check_fixture.h"
#include "checks/checker.h"
#include "replay-engine/replay.h"

namespace aftercheck::test {
namespace {

struct Replayed {
  ReplayResult result;
  std::string output;
};

Replayed replay_with(const Workplace& place, MachineChoice machine, std::vector<Participant*> participants) {
  Replayed replayed;
  ReplayOptions options;
  options.directory = place / "recording";
  options.machine = machine;
  options.participants = std::move(participants);
  options.output = [&](int, const std::byte* bytes, size_t size) {
    replayed.output.append(reinterpret_cast<const char*>(bytes), size);
  };
  replayed.result = replay(options);
  return replayed;
}

// Digests of all memory at each event, that which the recorder saw no need to digest included.
class MemoryAtEvents : public Participant {
 public:
  void attach(Replay& replay) override { guest_ = &replay.guest(); }
  void reached(const recording::Event&, uint64_t) override { digests_.push_back(guest_->memory_digest()); }
  std::vector<recording::Digest128> digests_;

 private:
  Guest* guest_ = nullptr;
};

// What a leak would be: one byte that a check left behind.
class Leak : public Participant {
 public:
  void attach(Replay& replay) override {
    guest_ = &replay.guest();
    space_ = &guest_->space();
  }
  void stopped(uint64_t) override {
    if (++stops_ != 5) return;
    const uint64_t below_stack = guest_->running().registers().rsp - 3000;
    std::byte byte{};
    REQUIRE(space_->read(below_stack, &byte, 1));
    byte ^= std::byte{1};
    REQUIRE(space_->write(below_stack, &byte, 1));
  }
  void detach() noexcept override { space_ = nullptr; }

 private:
  Guest* guest_ = nullptr;
  AddressSpace* space_ = nullptr;
  unsigned stops_ = 0;
};

}  // namespace

TEST_CASE("excursions: memory digests and output are the same with and without checks") {
  for (const char* guest : {"verdicts", "nested", "exceptions", "memories"}) {
    INFO(guest);
    const Workplace place;
    record_guest(place, {guest});
    for (const MachineChoice machine : {MachineChoice::soft, MachineChoice::automatic}) {
      CheckOptions options;
      options.excursion.limit = 10'000'000;
      Checker checker(options);
      const Replayed plain = replay_with(place, machine, {}),
                     checked = replay_with(place, machine, {&checker});
      const CheckReport report = checker.report();
      CHECK(report.excursions.excursions > 10);
      CHECK(report.excursions.written > 0);
      // Digests of all memory at exit are among those verified.
      CHECK(plain.result.memory_digests > 0);
      CHECK(checked.result.memory_digests == plain.result.memory_digests);
      CHECK(checked.result.events == plain.result.events);
      CHECK(checked.output == plain.output);
    }
  }
}

TEST_CASE("excursions: all of the program's memory is the same with and without checks, under ghosts too") {
  for (const char* guest : {"verdicts", "nested", "memories"}) {
    INFO(guest);
    const Workplace place;
    record_guest(place, {guest});
    CheckOptions options;
    options.excursion.limit = 10'000'000;
    MemoryAtEvents plain;
    replay_with(place, MachineChoice::soft, {&plain});
    for (const MachineChoice machine : {MachineChoice::soft, MachineChoice::automatic}) {
      Checker checker(options);
      MemoryAtEvents checked;
      replay_with(place, machine, {&checker, &checked});
      CHECK(checker.report().ghost_used == (guest != std::string_view("nested")));
      CHECK(checked.digests_.size() > 5);
      CHECK((checked.digests_ == plain.digests_));
    }
  }
}

TEST_CASE("excursions: a single byte that a check left behind would be a divergence") {
  const Workplace place;
  record_guest(place, {"verdicts"});
  CheckOptions options;
  options.excursion.limit = 10'000'000;
  Checker checker(options);
  Leak leak;
  try {
    replay_with(place, MachineChoice::soft, {&checker, &leak});
    FAIL("the leak was not seen");
  } catch (const Divergence& divergence) {
    CHECK_THAT(divergence.what(), Catch::Matchers::Contains("has other contents"));
  }
  // The report has what was reached.
  CHECK(checker.report().excursions.excursions > 5);
}

}  // namespace aftercheck::test
