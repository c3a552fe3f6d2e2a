// Recordings that were bent behind right checksums: a replay says so, at the event where the guest is not
// what the log says, or names what can't be.
#include <cstring>

#include "replay_fixture.h"
#include "rewritten.h"

namespace aftercheck::test {
namespace {

using Catch::Matchers::Contains;
using recording::Event;
using recording::EventKind;

constexpr uint8_t kRax = register_number(&Registers::rax);

enum { tell_round = 4 };

const std::filesystem::path& steps() {
  static const Workplace place;
  static const std::filesystem::path recording = [] {
    record_bare(place, STEPS_GUEST);
    return place / "recording";
  }();
  return recording;
}

// The first event of which `is` holds.
template <typename Is>
uint64_t find_event(Is is) {
  recording::Reader reader(steps());
  while (const Event* event = reader.next())
    if (is(*event)) return reader.number();
  FAIL("no such event");
  return 0;
}

uint64_t a_round() {
  const auto told = told_by(steps());
  return std::next(told.lower_bound(tell_round), 5)->second.event;
}
uint64_t an_output() {
  return find_event([](const Event& e) { return !e.outputs.empty() && e.outputs[0].stream != 0; });
}
uint64_t with_digests() {
  return find_event([](const Event& e) { return !e.memory.empty() && e.fpu_digest.has_value(); });
}
uint64_t with_writes() {
  return find_event([](const Event& e) {
    return e.kind == EventKind::syscall && !e.writes.empty() && !e.writes[0].bytes.empty();
  });
}
uint64_t with_mapping() {
  return find_event([](const Event& e) {
    return e.kind == EventKind::syscall && !e.space_ops.empty() &&
           e.space_ops[0].kind == recording::SpaceOpKind::map_anonymous;
  });
}
uint64_t with_patch() {
  return find_event([](const Event& e) { return e.kind == EventKind::syscall && !e.patches.empty(); });
}
uint64_t the_start() { return 0; }
uint64_t the_end() {
  return find_event([](const Event& e) { return e.kind == EventKind::end; });
}

struct Outcome {
  bool diverged = false;
  uint64_t event = 0;  // of the divergence
  std::optional<ErrorKind> kind;
  std::string message, output;
};

Outcome replayed(const std::filesystem::path& recording, MachineChoice machine) {
  Outcome outcome;
  ReplayOptions options = options_for(recording, machine);
  options.output = [&](int, const std::byte* bytes, size_t size) {
    outcome.output.append(reinterpret_cast<const char*>(bytes), size);
  };
  try {
    Replay replay(options);
    while (replay.advance().why != Stop::Why::end) continue;
  } catch (const Divergence& divergence) {
    outcome.diverged = true;
    outcome.event = divergence.event();
    outcome.message = divergence.what();
  } catch (const Error& error) {
    outcome.kind = error.kind();
    outcome.message = error.what();
  }
  return outcome;
}

struct Bend {
  const char* name;
  uint64_t (*where)();
  void (*bend)(Event&);
  int later;  // how many events after the bent one it is seen; -1: any
  const char* message;
};

const std::vector<Bend>& divergences() {
  static const std::vector<Bend> cases = {
      // the exit
      {"operand", a_round, [](Event& e) { e.operands.at(2) ^= 1; }, 0, "system call 110"},
      {"last operand", a_round, [](Event& e) { e.operands.back() ^= uint64_t{1} << 63; }, 0, ""},
      {"one operand more", a_round, [](Event& e) { e.operands.push_back(0); }, 0, ""},
      {"call's number", a_round, [](Event& e) { e.operands.at(0) = 39; }, 0, ""},
      {"kind", a_round, [](Event& e) { e.kind = EventKind::exception; }, 0, ""},
      {"RIP", a_round, [](Event& e) { e.rip += 1; }, 0, ""},
      {"register digest", a_round, [](Event& e) { e.digest ^= 1; }, 0, "registers differ"},
      {"register digest's last bit", a_round, [](Event& e) { e.digest ^= uint32_t{1} << 31; }, 0,
       "registers differ"},
      {"first memory digest", with_digests, [](Event& e) { e.memory.front().digest.front() ^= 1; }, 0,
       "has other contents"},
      {"last memory digest", with_digests, [](Event& e) { e.memory.back().digest.back() ^= 0x80; }, 0,
       "has other contents"},
      {"length of a memory digest", with_digests, [](Event& e) { e.memory.front().length -= 1; }, 0,
       "has other contents"},
      {"address of a memory digest", with_digests, [](Event& e) { e.memory.front().address += 1; }, 0, ""},
      {"memory that is not mapped", with_digests, [](Event& e) { e.memory.front().address = 0x6f000000; }, 0,
       "is not mapped"},
      {"FPU digest", with_digests, [](Event& e) { *e.fpu_digest ^= 1; }, 0, "x87 or SSE"},
      {"FPU digest without memory's", with_digests,
       [](Event& e) {
         e.memory.clear();
         *e.fpu_digest ^= uint64_t{1} << 63;
       },
       0, "x87 or SSE"},
      // what left
      {"output digest", an_output, [](Event& e) { e.outputs[0].digest ^= 1; }, 0, "has other bytes"},
      {"output elsewhere", an_output, [](Event& e) { e.outputs[0].pieces.at(0).address += 1; }, 0,
       "has other bytes"},
      {"shorter output", an_output, [](Event& e) { e.outputs[0].pieces.at(0).length -= 1; }, 0,
       "has other bytes"},
      {"longer output", an_output, [](Event& e) { e.outputs[0].pieces.at(0).length += 1; }, 0,
       "has other bytes"},
      {"output in another piece", an_output,
       [](Event& e) { e.outputs[0].pieces.push_back(e.outputs[0].pieces[0]); }, 0, "has other bytes"},
      {"output out of nowhere", an_output, [](Event& e) { e.outputs[0].pieces.at(0).address = 0x6f000000; },
       0, "can't be read"},
      {"output of the recorder's", an_output,
       [](Event& e) { e.outputs[0].pieces.at(0).address = 0x7f0000000000; }, 0, "can't be read"},
      {"output that nobody sees", an_output,
       [](Event& e) {
         e.outputs[0].stream = 0;
         e.outputs[0].digest ^= 1;
       },
       0, "has other bytes"},
      // the answer
      {"result of a call", with_mapping,
       [](Event& e) {
         for (auto& change : e.registers)
           if (change.number == kRax) change.value ^= 1;
       },
       1, ""},
      {"register more in an answer", a_round,
       [](Event& e) {
         e.registers.push_back({register_number(&Registers::gs_base), 0x1000});
       },
       1, "registers differ"},
      {"bytes of an answer", with_writes,
       [](Event& e) {
         static const std::vector<std::byte> kOther(64, std::byte{0x41});
         e.writes[0].bytes = std::span(kOther).first(e.writes[0].bytes.size());
       },
       -1, ""},
      {"writes left out", with_writes, [](Event& e) { e.writes.clear(); }, -1, ""},
      {"protection of a mapping", with_mapping, [](Event& e) { e.space_ops[0].prot = 0; }, -1, ""},
      {"FPU of the start", the_start, [](Event& e) { e.fpu.at(160 + 8) ^= std::byte{1}; }, -1, "x87 or SSE"},
      {"patches left out", with_patch, [](Event& e) { e.patches.clear(); }, -1, ""},
  };
  return cases;
}

const std::vector<Bend>& impossible() {
  static const std::vector<Bend> cases = {
      {"thread", a_round, [](Event& e) { e.thread = 1; }, 0, "thread 1"},
      {"memory digest of 64 MiB and a byte", with_digests,
       [](Event& e) { e.memory[0].length = (uint64_t{64} << 20) + 1; }, 0, "is outside the guest"},
      {"memory digest of 2^64 - 1", with_digests, [](Event& e) { e.memory[0].length = UINT64_MAX; }, 0,
       "is outside the guest"},
      {"memory digest of ours", with_digests, [](Event& e) { e.memory[0].address = 0x7f0000000000; }, 0,
       "is outside the guest"},
      {"register that there is not", a_round,
       [](Event& e) {
         e.registers.push_back({20, 1});
       },
       0, "register number 20"},
      {"segment base", a_round,
       [](Event& e) {
         e.registers.push_back({register_number(&Registers::fs_base), uint64_t{1} << 47});
       },
       0, "not canonical"},
      {"MXCSR", a_round,
       [](Event& e) {
         e.fpu.assign(512, std::byte{0});
         e.fpu[26] = std::byte{1};
       },
       0, "reserved bits"},
      {"write where nothing is mapped", with_writes, [](Event& e) { e.writes[0].address = 0x6f000000; }, 0,
       "not mapped"},
      {"write into ours", with_writes, [](Event& e) { e.writes[0].address = 0x7f0000000000; }, 0,
       "not mapped"},
      {"write that begins before the mapping", with_mapping,
       [](Event& e) {
         static const std::vector<std::byte> kBytes(8);
         e.writes.push_back({e.space_ops[0].address - 4, kBytes});
       },
       0, "not mapped"},
      {"mapping outside", with_mapping, [](Event& e) { e.space_ops[0].address = 0x7f0000000000; }, 0,
       "outside the guest"},
      {"mapping of 2^64 - 4096", with_mapping, [](Event& e) { e.space_ops[0].length = ~uint64_t{4095}; }, 0,
       "outside the guest"},
      {"mapping of no bytes", with_mapping, [](Event& e) { e.space_ops[0].length = 0; }, 0, ""},
      {"mapping at an odd address", with_mapping, [](Event& e) { e.space_ops[0].address += 1; }, 0, ""},
      {"protection", with_mapping, [](Event& e) { e.space_ops[0].prot |= 0x100; }, 0, "protection 0x107"},
      {"patch of another kind", with_patch, [](Event& e) { e.patches[0].kind = 200; }, 0, "code patch"},
      {"patch of other code", with_patch, [](Event& e) { e.patches[0].original[0] ^= 1; }, 0, "code patch"},
      {"patch that is too short", with_patch, [](Event& e) { e.patches[0].length = 1; }, 0, "code patch"},
      {"patch elsewhere", with_patch, [](Event& e) { e.patches[0].address += 1; }, 0, "code patch"},
      {"patch twice", with_patch, [](Event& e) { e.patches.push_back(e.patches[0]); }, 0, "code patch"},
      {"start that is none", the_start, [](Event& e) { e.kind = EventKind::syscall; }, 0, "not the start"},
      {"second start", a_round, [](Event& e) { e.kind = EventKind::start; }, 0, "second start"},
      {"end without a status", the_end, [](Event& e) { e.operands.pop_back(); }, 0, "malformed"},
      {"end for no known reason", the_end, [](Event& e) { e.operands[0] = 3; }, 0, "malformed"},
  };
  return cases;
}

std::filesystem::path bent(const Workplace& place, const Bend& bend) {
  const uint64_t at = bend.where();
  rewrite(steps(), place / "bent", [&](const Event& event, uint64_t number) {
    std::vector<Event> events = {event};
    if (number == at) bend.bend(events[0]);
    return events;
  });
  return place / "bent";
}

void check_divergences(MachineChoice machine) {
  for (const Bend& bend : divergences()) {
    INFO(bend.name);
    const Workplace place;
    const Outcome outcome = replayed(bent(place, bend), machine);
    INFO(outcome.message);
    REQUIRE(outcome.diverged);
    if (bend.later >= 0)
      CHECK(outcome.event == bend.where() + static_cast<uint64_t>(bend.later));
    else
      CHECK(outcome.event > bend.where());
    CHECK_THAT(outcome.message, Contains(bend.message));
  }
}

void check_impossible(MachineChoice machine) {
  for (const Bend& bend : impossible()) {
    INFO(bend.name);
    const Workplace place;
    const Outcome outcome = replayed(bent(place, bend), machine);
    INFO(outcome.message);
    CHECK_FALSE(outcome.diverged);
    REQUIRE(outcome.kind == ErrorKind::bad_input);
    CHECK_THAT(outcome.message, Contains(bend.message) && Contains("event " + std::to_string(bend.where())));
  }
}

// Events in another order, twice, or not at all.
void check_order(MachineChoice machine) {
  const uint64_t at = a_round(), mapping = with_mapping();
  struct Case {
    const char* name;
    uint64_t seen;
    Rewrite change;
  };
  std::vector<Event> held;
  const auto same = [](const Event& event) { return std::vector<Event>{event}; };
  const std::vector<Case> cases = {
      {"left out", at,
       [&](const Event& event, uint64_t number) {
         return number == at ? std::vector<Event>() : same(event);
       }},
      {"twice", at + 1,
       [&](const Event& event, uint64_t number) {
         return number == at ? std::vector<Event>{event, event} : same(event);
       }},
      {"in another order", at,
       [&](const Event& event, uint64_t number) {
         if (number == at) {
           held = {event};
           return std::vector<Event>();
         }
         return number == at + 1 ? std::vector<Event>{event, held.at(0)} : same(event);
       }},
      {"a result left out", mapping + 1,
       [&](const Event& event, uint64_t number) {
         std::vector<Event> events = {event};
         if (number == mapping)
           std::erase_if(events[0].registers, [](const auto& change) { return change.number == kRax; });
         return events;
       }},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    const Workplace place;
    rewrite(steps(), place / "bent", c.change);
    const Outcome outcome = replayed(place / "bent", machine);
    INFO(outcome.message);
    REQUIRE(outcome.diverged);
    CHECK(outcome.event == c.seen);
  }
}

// Nothing of an output is shown that is not the recorded one, and all before it was.
void check_output_before(MachineChoice machine) {
  const Outcome whole = replayed(steps(), machine);
  REQUIRE(whole.message.empty());
  const size_t line = whole.output.find('\n') + 1;
  REQUIRE(whole.output.size() > line);
  const Workplace place;
  bool first = true;
  rewrite(steps(), place / "bent", [&](const Event& event, uint64_t) {
    std::vector<Event> events = {event};
    if (!event.outputs.empty() && event.outputs[0].stream != 0 && !std::exchange(first, false))
      events[0].outputs[0].digest ^= 1;
    return events;
  });
  const Outcome outcome = replayed(place / "bent", machine);
  CHECK(outcome.diverged);
  CHECK(outcome.output == whole.output.substr(0, line));
}

}  // namespace

#define ON_EACH(name, call) ON_EACH_MACHINE(name, steps(), call)

TEST_CASE("bent recordings: written again as it was, a recording is as good") {
  const Workplace place;
  rewrite(steps(), place / "same", [](const Event& event, uint64_t) { return std::vector<Event>{event}; });
  Replay replay(options_for(place / "same", kSoft));
  CHECK(ends_well(replay));
}
ON_EACH("bent recordings: what the guest is not is a divergence, at its event", check_divergences(machine))
ON_EACH("bent recordings: what can't be is named", check_impossible(machine))
ON_EACH("bent recordings: order and number of events", check_order(machine))
ON_EACH("bent recordings: output is shown as far as it is the recorded one", check_output_before(machine))

}  // namespace aftercheck::test
