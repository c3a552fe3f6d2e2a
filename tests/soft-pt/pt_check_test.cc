// Replays against the recording's PT trace: faithful ones, ones that are bent on purpose, and traces with
// gaps.
#include "pt-replay/pt_check.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "pt-replay/pt_synth.h"
#include "pt-trace/packet.h"
#include "recording/pt_log.h"
#include "replay-engine/replay.h"

namespace aftercheck {
namespace {

namespace fs = std::filesystem;
using recording::PtLogReader;
using recording::PtLogWriter;
using recording::PtRecord;

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "pt-check-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Folder() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  fs::path operator/(const char* name) const { return path_ / name; }

 private:
  fs::path path_;
};

// One recording with soft PT serves all tests, which copy it where they change it.
const fs::path& recorded() {
  static const Folder folder;
  static const fs::path path = [] {
    const fs::path made = folder / "recording";
    const std::string command =
        "'" AFTERCHECK_TOOL "' record -o '" + made.string() + "' --pt=soft -- '" BEND_GUEST "'";
    REQUIRE(std::system(command.c_str()) == 0);
    return made;
  }();
  return path;
}

struct Outcome {
  PtCheck::Result pt;
  std::string divergence;
  uint64_t event = 0;
};

// The machines that tell branches.
MachineChoice any_machine() { return GENERATE(MachineChoice::soft, MachineChoice::translated); }

Outcome replay_with(MachineChoice machine, const fs::path& directory, Participant* other = nullptr) {
  PtCheck check({directory, 0, true});
  ReplayOptions options;
  options.directory = directory;
  options.machine = machine;
  options.participants = {&check};
  if (other != nullptr) options.participants.push_back(other);
  Outcome outcome;
  try {
    replay(options);
  } catch (const Divergence& divergence) {
    outcome.divergence = divergence.what();
    outcome.event = divergence.event();
  }
  outcome.pt = check.result();
  return outcome;
}

// Lets `bend` at the guest after the answer to its 100th getppid().
class Bender : public Participant {
 public:
  explicit Bender(std::function<void(Guest&, const recording::Event&)> bend) : bend_(std::move(bend)) {}
  void attach(Replay& replay) override { guest_ = &replay.guest(); }
  void applied(const recording::Event& event, uint64_t number) override {
    if (event.operands.size() < 4 || event.operands[0] != SYS_getppid || event.operands[3] != 100) return;
    bent_at_ = number;
    bend_(*guest_, event);
  }
  uint64_t bent_at() const { return bent_at_; }

 private:
  std::function<void(Guest&, const recording::Event&)> bend_;
  Guest* guest_ = nullptr;
  uint64_t bent_at_ = 0;
};

void flip(Guest& guest, uint64_t address) {
  uint32_t value = 0;
  REQUIRE(guest.space().read(address, &value, sizeof value));
  value ^= 1;
  REQUIRE(guest.space().write(address, &value, sizeof value));
}

// A copy of the recording whose trace has gone through `change`, record by record.
void copy_with(const fs::path& to, const std::function<void(const PtRecord&, PtLogWriter&)>& change) {
  fs::copy(recorded(), to, fs::copy_options::recursive);
  fs::remove_all(to / "pt");
  PtLogReader reader(recorded(), 0);
  PtLogWriter writer(to, 0, reader.format());
  while (const PtRecord* record = reader.next()) change(*record, writer);
  writer.finish();
}

void pass_on(const PtRecord& record, PtLogWriter& writer) {
  if (record.kind == PtRecord::Kind::data) writer.data(record.bytes);
  if (record.kind == PtRecord::Kind::mark) writer.mark(record.event);
  if (record.kind == PtRecord::Kind::loss) writer.loss(record.flags, record.lost_bytes);
}

}  // namespace

TEST_CASE("PT check: a faithful replay has the recording's branches in every segment") {
  const MachineChoice machine = any_machine();
  const Outcome outcome = replay_with(machine, recorded());
  CHECK(outcome.divergence.empty());
  CHECK(outcome.pt.active);
  CHECK(outcome.pt.unverified == 0);
  CHECK(outcome.pt.compared > 200);
  CHECK(outcome.pt.branches > 200 * 20 * 4);
}

TEST_CASE("PT check: memory bent behind a conditional branch is found at that branch") {
  const MachineChoice machine = any_machine();
  Bender bender([](Guest& guest, const recording::Event& event) { flip(guest, event.operands[1]); });
  const Outcome outcome = replay_with(machine, recorded(), &bender);
  CHECK(outcome.event == bender.bent_at() + 1);
  CHECK_THAT(outcome.divergence, Catch::Contains("first branch that differs: the conditional branch at") &&
                                     Catch::Contains("choose+") && Catch::Contains("not taken") &&
                                     Catch::Contains("in the recording"));
}

TEST_CASE("PT check: memory bent behind an indirect call is found at that call") {
  const MachineChoice machine = any_machine();
  Bender bender([](Guest& guest, const recording::Event& event) { flip(guest, event.operands[2]); });
  const Outcome outcome = replay_with(machine, recorded(), &bender);
  CHECK(outcome.event == bender.bent_at() + 1);
  CHECK_THAT(outcome.divergence, Catch::Contains("first branch that differs: the indirect branch at") &&
                                     Catch::Contains("dispatch+") && Catch::Contains("first") &&
                                     Catch::Contains("second"));
}

TEST_CASE("PT check: a bent register that leads to another exit is explained by the branches") {
  const MachineChoice machine = any_machine();
  // The return address of syscall() on the stack: the guest comes back two bytes further on, or crashes.
  Bender bender([](Guest& guest, const recording::Event&) { flip(guest, guest.running().registers().rsp); });
  const Outcome outcome = replay_with(machine, recorded(), &bender);
  CHECK(outcome.event == bender.bent_at() + 1);
  CHECK_THAT(outcome.divergence, Catch::Contains("first branch that differs: the indirect branch at"));
}

TEST_CASE("PT check: a bent register that changes no branch is said to change none") {
  const MachineChoice machine = any_machine();
  Bender bender([](Guest& guest, const recording::Event&) { guest.running().registers().r15 ^= 1; });
  const Outcome outcome = replay_with(machine, recorded(), &bender);
  if (!outcome.divergence.empty())
    CHECK_THAT(outcome.divergence, Catch::Contains("that both traces lead through are the same") ||
                                       Catch::Contains("first branch that differs"));
  CHECK(outcome.event > bender.bent_at());
}

TEST_CASE("PT check: a trace in which one outcome is another is a divergence at that branch") {
  const MachineChoice machine = any_machine();
  const Folder folder;
  const fs::path directory = folder / "altered";
  uint64_t flipped = 0;
  copy_with(directory, [&](const PtRecord& record, PtLogWriter& writer) {
    if (record.kind != PtRecord::Kind::data || flipped != 0 || record.offset < 60000)
      return pass_on(record, writer);
    std::vector<uint8_t> bytes(record.bytes.begin(), record.bytes.end());
    pt::BlockItems items = pt::BlockItems::none;
    pt::Packet packet;
    // Pieces end at marks, so they start with a packet.
    for (size_t at = 0; at < bytes.size() && flipped == 0; at += packet.size) {
      REQUIRE(pt::decode_packet(std::span(bytes).subspan(at), items, packet) == pt::DecodeStatus::ok);
      if (packet.type != pt::PacketType::tnt_short || packet.aux < 4) continue;
      bytes[at] ^= 1 << 2;
      flipped = record.offset + at;
    }
    writer.data(bytes);
  });
  REQUIRE(flipped != 0);
  const Outcome outcome = replay_with(machine, directory);
  CHECK_THAT(outcome.divergence, Catch::Contains("first branch that differs: the conditional branch at"));
  CHECK(outcome.pt.compared > 50);
}

TEST_CASE("PT check: lost data is not compared, and never called a divergence") {
  const MachineChoice machine = any_machine();
  const Folder folder;
  const fs::path directory = folder / "gaps";
  unsigned pieces = 0, gaps = 0;
  copy_with(directory, [&](const PtRecord& record, PtLogWriter& writer) {
    if (record.kind == PtRecord::Kind::data && ++pieces % 40 == 0) {
      // Half of it is missing.
      writer.data(record.bytes.first(record.bytes.size() / 2));
      writer.loss(recording::pt_loss::kTruncated, 0);
      ++gaps;
      return;
    }
    pass_on(record, writer);
  });
  const Outcome outcome = replay_with(machine, directory);
  CHECK(outcome.divergence.empty());
  CHECK(gaps > 3);
  CHECK(outcome.pt.unverified >= gaps);
  CHECK(outcome.pt.compared > 20);
  CHECK_THAT(outcome.pt.reason, Catch::Contains("truncated"));
}

TEST_CASE("PT check: a trace that lost its end leaves the rest uncompared, a damaged one is an error") {
  const MachineChoice machine = any_machine();
  const Folder folder;
  const fs::path directory = folder / "cut";
  copy_with(directory, [&](const PtRecord& record, PtLogWriter& writer) {
    pass_on(record, writer);
    if (record.kind == PtRecord::Kind::mark && record.event % 50 == 0)
      writer.flush_older_than(std::chrono::milliseconds(0));
  });
  fs::resize_file(directory / "pt/0", fs::file_size(directory / "pt/0") / 2);
  const Outcome outcome = replay_with(machine, directory);
  CHECK(outcome.divergence.empty());
  CHECK(outcome.pt.compared >= 50);
  CHECK(outcome.pt.unverified >= 50);
  CHECK_THAT(outcome.pt.reason, Catch::Contains("incomplete chunk"));

  std::fstream file(directory / "pt/0", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(100);
  file.write("damage", 6);
  file.close();
  CHECK_THROWS_WITH(replay_with(machine, directory), Catch::Contains("pt/0") && Catch::Contains("offset"));
}

TEST_CASE("PT synth: the trace of a replay is that of the recording, and comes whole or not at all") {
  const MachineChoice machine = any_machine();
  const Folder folder;
  const fs::path directory = folder / "synth";
  fs::copy(recorded(), directory, fs::copy_options::recursive);
  CHECK_THROWS_WITH(synthesize_pt({.directory = directory}), Catch::Contains("--force"));
  const PtSynthResult result = synthesize_pt({.directory = directory, .replace = true, .machine = machine});
  CHECK(result.losses == 0);
  CHECK(recording::summarize_pt(directory, 0).format.source == recording::PtSource::synth);
  CHECK(replay_with(machine, directory).pt.unverified == 0);

  // A replay that fails leaves what was there.
  std::fstream file(directory / "events", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(100);
  file.write("damage", 6);
  file.close();
  CHECK_THROWS(synthesize_pt({.directory = directory, .replace = true, .machine = machine}));
  CHECK_FALSE(fs::exists(directory / "pt.new"));
  CHECK(recording::summarize_pt(directory, 0).complete);
}

}  // namespace aftercheck
