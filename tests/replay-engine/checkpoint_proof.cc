// Proves of one recording that replays from checkpoints equal replays from the start.
// usage: checkpoint_proof RECORDING MACHINE...
// On the first machine a replay goes through the recording, noting at every event the running digest of
// registers and, at up to a few hundred events, digests of all memory and of the FPU. Checkpoints are made at
// events all over the recording, on each machine; from each of them a replay is started on each machine,
// which must come by the same digests to the same end. RECORDING is changed: checkpoints are added to it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "replay-engine/checkpointer.h"
#include "replay-engine/replay.h"

namespace aftercheck {
namespace {

constexpr MachineKind kKinds[] = {MachineKind::kvm, MachineKind::soft, MachineKind::translated};

MachineChoice machine_named(const std::string& word) {
  for (const MachineKind kind : kKinds)
    if (word == name(kind)) return choice_of(kind);
  fail(ErrorKind::usage, "no machine {}", word);
}
const char* name_of(MachineChoice choice) {
  for (const MachineKind kind : kKinds)
    if (choice == choice_of(kind)) return name(kind);
  return "auto";
}

constexpr uint64_t kMostMemoryDigests = 200;
constexpr uint64_t kCheckpoints = 4, kFewCheckpoints = 2;
constexpr double kLongSeconds = 0.5;  // of a replay, from which on there are few
constexpr uint64_t kFewestEvents = 4;
// A guest with very much address space has fewer memory digests.
constexpr double kDigestSeconds = 1;

struct Seen {
  uint64_t registers = 0;
  std::optional<recording::Digest128> memory;
  uint64_t fpu = 0;
  friend bool operator==(const Seen&, const Seen&) = default;
};

// What the guest is like at each event.
class Witness : public Participant {
 public:
  explicit Witness(uint64_t every) : every_(every) {}
  void attach(Replay& replay) override { replay_ = &replay; }
  void reached(const recording::Event& event, uint64_t number) override {
    Guest& guest = replay_->guest();
    GuestThread& thread = guest.thread(event.thread);
    Seen& seen = seen_[number];
    seen.registers = thread.digest().value();
    if (number % every_ != 0) return;
    seen.memory = guest.memory_digest();
    seen.fpu = recording::digest64(canonical_fpu(thread.fpu()));
  }
  const std::map<uint64_t, Seen>& seen() const { return seen_; }

 private:
  const uint64_t every_;
  Replay* replay_ = nullptr;
  std::map<uint64_t, Seen> seen_;
};

struct Run {
  std::map<uint64_t, Seen> seen;
  ReplayResult result;
  std::string output;
};

Run run(const std::filesystem::path& directory, MachineChoice machine, uint64_t start_near, uint64_t every,
        std::vector<Participant*> others = {}) {
  Witness witness(every);
  Run run;
  ReplayOptions options;
  options.directory = directory;
  options.machine = machine;
  options.start_near = start_near;
  options.output = [&](int, const std::byte* bytes, size_t size) {
    run.output.append(reinterpret_cast<const char*>(bytes), size);
  };
  options.warning = [](const std::string& text) { fail(ErrorKind::bad_input, "warning: {}", text); };
  options.participants = {&witness};
  options.participants.insert(options.participants.end(), others.begin(), others.end());
  run.result = replay(options);
  run.seen = witness.seen();
  return run;
}

// How long it takes to read all memory at an event.
double digest_seconds(const std::filesystem::path& directory, MachineChoice machine, uint64_t event) {
  ReplayOptions options;
  options.directory = directory;
  options.machine = machine;
  Replay replay(options);
  replay.advance({.event = event});
  const auto start = std::chrono::steady_clock::now();
  replay.guest().memory_digest();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void compare(const Run& whole, const Run& part, uint64_t start, const std::string& what) {
  if (part.result.checkpoint != start)
    fail(ErrorKind::divergence, "{}: it did not start from the checkpoint at event {}", what, start);
  const auto expected = whole.seen.upper_bound(start);
  if (part.seen.size() != static_cast<size_t>(std::distance(expected, whole.seen.end())))
    fail(ErrorKind::divergence, "{}: {} events instead of {}", what, part.seen.size(),
         std::distance(expected, whole.seen.end()));
  auto other = expected;
  for (const auto& [number, seen] : part.seen) {
    if (other->first != number || !(other->second == seen))
      fail(ErrorKind::divergence, "{}: at event {} {}", what, number,
           other->first != number                      ? "there is none"
           : other->second.registers != seen.registers ? "registers differ"
           : other->second.memory != seen.memory       ? "memory differs"
                                                       : "the FPU differs");
    ++other;
  }
  const ReplayResult &a = whole.result, &b = part.result;
  if (a.ended != b.ended || a.signaled != b.signaled || a.status != b.status ||
      !whole.output.ends_with(part.output))
    fail(ErrorKind::divergence, "{}: the end or the output differs", what);
}

void prove(const std::filesystem::path& directory, const std::vector<MachineChoice>& machines) {
  const auto start = std::chrono::steady_clock::now();
  const Run counted = run(directory, machines.front(), 0, UINT64_MAX);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const uint64_t checkpoints = took.count() > kLongSeconds ? kFewCheckpoints : kCheckpoints;
  const uint64_t events = counted.seen.empty() ? 0 : counted.seen.rbegin()->first;
  if (events < kFewestEvents) {
    std::printf("%lu events: too few to start in between\n", events);
    return;
  }
  // Memory may grow at any time.
  const double digest_took = std::max(digest_seconds(directory, machines.front(), events / 2),
                                      digest_seconds(directory, machines.front(), events - 1));
  const auto digests = std::max<uint64_t>(static_cast<uint64_t>(kDigestSeconds / digest_took), 2);
  const uint64_t every = std::max<uint64_t>(events / std::min(digests, kMostMemoryDigests), 1);
  const Run whole = run(directory, machines.front(), 0, every);
  uint64_t compared = 0, replays = 0;
  for (const MachineChoice maker : machines) {
    // The events before which a checkpoint lies, spread over the recording; never the same on two machines.
    const uint64_t shift = maker == MachineChoice::kvm ? 0 : 1;
    uint64_t taken = 0;
    std::vector<uint64_t> made;
    Checkpointer checkpointer({.directory = directory, .every_ns = 0, .share = 0}, [&](uint64_t event) {
      if (taken >= checkpoints || event < shift + 1 + (events - 1) * taken / checkpoints) return false;
      ++taken;
      made.push_back(event);
      return true;
    });
    run(directory, maker, 0, UINT64_MAX, {&checkpointer});
    for (const uint64_t event : made)
      for (const MachineChoice machine : machines) {
        const Run part = run(directory, machine, event, every);
        compare(whole, part, event,
                fmt::format("from the checkpoint at event {}, made on {}, on {}", event, name_of(maker),
                            name(part.result.machine)));
        compared += part.seen.size();
        ++replays;
      }
  }
  if (compared == 0) fail(ErrorKind::internal, "nothing was compared");
  std::printf("%lu replays from checkpoints, %lu events: as from the start\n", replays, compared);
}

}  // namespace
}  // namespace aftercheck

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: checkpoint_proof RECORDING MACHINE...\n");
    return 2;
  }
  try {
    std::vector<aftercheck::MachineChoice> machines;
    for (int i = 2; i < argc; ++i) machines.push_back(aftercheck::machine_named(argv[i]));
    aftercheck::prove(argv[1], machines);
  } catch (const aftercheck::Error& error) {
    std::fprintf(stderr, "checkpoint_proof: %s\n", error.what());
    return aftercheck::exit_status(error.kind());
  }
  return 0;
}
