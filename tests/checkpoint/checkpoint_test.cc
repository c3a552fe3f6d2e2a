// Checkpoints that are whole, and damaged ones: a recording is as good as without them.
#include "checkpoint/checkpoint.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <set>

#include "checkpoint_fixture.h"

namespace aftercheck::test {
namespace {

using Catch::Matchers::Contains;

// The names of blobs that the log needs.
std::set<std::string> blobs_of_log(const fs::path& recording) {
  std::set<std::string> blobs;
  recording::Reader reader(recording);
  while (const recording::Event* event = reader.next())
    for (const recording::SpaceOp& op : event->space_ops)
      if (op.blob != recording::Digest128{}) blobs.insert(recording::to_hex(op.blob));
  return blobs;
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

// Every checkpoint leads to the same end, whoever made it.
void check_all(const fs::path& recording, MachineChoice machine) {
  const Checkpoints checkpoints(recording);
  REQUIRE(checkpoints.all().size() > 40);
  CHECK(checkpoints.before(0) == nullptr);
  for (const Checkpoints::Known& known : checkpoints.all()) {
    INFO("event " << known.event);
    const CheckpointSummary summary = Checkpoints::summary(known);
    CHECK(summary.event == known.event);
    CHECK(summary.pages != 0);
    CHECK(checkpoints.before(known.event)->event == known.event);
    const Run run = run_from(recording, known.event, machine);
    INFO(run.error);
    CHECK(ended_well(run));
    CHECK(run.warnings.empty());
    CHECK(run.result.checkpoint == known.event);
  }
}

// Damaged files at one event: the replay starts from the one before and says so.
void check_passed_over(const Copy& copy, uint64_t event, const std::string& named) {
  const Run run = run_from(copy.path(), event);
  INFO(run.error);
  CHECK(ended_well(run));
  CHECK(run.result.checkpoint == event - 1);
  REQUIRE(run.warnings.size() == 1);
  CHECK_THAT(run.warnings[0], Contains("checkpoint at event " + std::to_string(event)) && Contains(named));
}

// A page that only this checkpoint has brought into the store: its pack and the frame.
struct OwnFrame {
  uint64_t event;
  PageFrame frame;
  recording::Digest128 pack;
};
OwnFrame own_frame(const Copy& copy) {
  std::set<recording::Digest128> before;
  OwnFrame found{};
  for (const Checkpoints::Known& known : copy.all()) {
    const Checkpoint checkpoint = Checkpoints::load(known);
    for (const PageFrame& frame : checkpoint.frames)
      if (known.event > 20 && !before.contains(checkpoint.packs[frame.pack]) && found.event == 0)
        found = {known.event, frame, checkpoint.packs[frame.pack]};
    before.insert(checkpoint.packs.begin(), checkpoint.packs.end());
  }
  REQUIRE(found.event != 0);
  return found;
}

// Runs the tool, silently, and kills it after a while.
void run_and_kill(const std::vector<std::string>& arguments, const fs::path& directory,
                  unsigned milliseconds) {
  const pid_t child = fork();
  if (child == 0) {
    const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    std::vector<std::string> words{AFTERCHECK_BINARY};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    if (chdir(directory.c_str()) == 0) execv(argv[0], argv.data());
    _exit(122);
  }
  REQUIRE(child > 0);
  usleep(milliseconds * 1000);
  kill(child, SIGKILL);
  exit_status_of(child);
}

std::string read_pages_error(const Copy& copy, uint64_t event) {
  const Checkpoint checkpoint = Checkpoints::load(copy.at(event));
  const recording::Store store(copy.path(), false);
  const auto error =
      error_of([&] { read_pages(checkpoint, store, [](const PageRun&, std::span<const std::byte>) {}); });
  if (!error) return {};
  CHECK(error->kind() == ErrorKind::bad_input);
  return error->what();
}

}  // namespace

ON_EACH_MACHINE("checkpoints: from each that the recorder kept", recorded_with_checkpoints(),
                check_all(recorded_with_checkpoints(), machine))
ON_EACH_MACHINE("checkpoints: from each that was made later", checkpointed_later(),
                check_all(checkpointed_later(), machine))

TEST_CASE("checkpoints: the guest is the one that a replay from the start has there") {
  for (const fs::path& recording : {recorded_with_checkpoints(), checkpointed_later()})
    for (const uint64_t event : {1, 9, 30, 50}) {
      INFO(recording << " " << event);
      std::vector<recording::FullState> states;
      std::vector<uint64_t> digests;
      for (const uint64_t near : {uint64_t{0}, event}) {
        ReplayOptions options = options_for(recording, kSoft);
        options.start_near = near;
        Replay replay(options);
        replay.advance({.event = event});
        CHECK(replay.result().checkpoint.has_value() == (near != 0));
        states.push_back(replay.guest().full_state(replay.guest().running()));
        digests.push_back(replay.guest().running().digest().value());
      }
      CHECK(states[0] == states[1]);
      CHECK(digests[0] == digests[1]);
    }
}

TEST_CASE("checkpoints: of shared files all is kept, mapped or not") {
  for (const bool later : {false, true}) {
    const Workplace place;
    record_bare(place, GROWS_GUEST,
                later ? std::vector<std::string>{} : std::vector<std::string>{"--checkpoint-every", "0"});
    if (later)
      REQUIRE(run_tool({"checkpoint", "--machine=soft", "--every", "0", "recording"}, place.path()).status ==
              0);
    const Checkpoints checkpoints(place / "recording");
    REQUIRE(checkpoints.all().size() > 30);
    for (const Checkpoints::Known& known : checkpoints.all()) {
      INFO("event " << known.event << ", made later: " << later);
      const Run run = run_from(place / "recording", known.event);
      INFO(run.error);
      CHECK(ended_well(run));
      CHECK(run.result.checkpoint == known.event);
    }
  }
}

TEST_CASE("checkpoints: one that needs more packs than the process may open files for itself") {
  for (const bool later : {false, true}) {
    INFO("made later: " << later);
    const Workplace place;
    record_bare(place, PACKS_GUEST,
                later ? std::vector<std::string>{} : std::vector<std::string>{"--checkpoint-every", "0"});
    if (later)
      REQUIRE(run_tool({"checkpoint", "--machine=soft", "--every", "0", "recording"}, place.path()).status ==
              0);
    const fs::path recording = place / "recording";
    const Checkpoints::Known last = Checkpoints(recording).all().back();
    CHECK(Checkpoints::load(last).packs.size() >= 150);  // base/fd.cc has places for 64 files
    const Run run = run_from(recording, last.event);
    INFO(run.error);
    CHECK(ended_well(run));
    CHECK(run.warnings.empty());
    CHECK(run.result.checkpoint == last.event);
    CHECK(run_tool({"checkpoint", "--verify", "recording"}, place.path()).status == 0);
  }
}

TEST_CASE("checkpoints: every flipped byte and every cut of the file is seen") {
  for (const fs::path& recording : {recorded_with_checkpoints(), checkpointed_later()}) {
    const Copy copy(recording);
    const Checkpoints::Known known = copy.at(30);
    const std::string whole = read_file(known.file);
    CHECK_NOTHROW(Checkpoints::load(known));
    const auto refused = [&] {
      const auto error = error_of([&] { Checkpoints::load(known); });
      return error && (error->kind() == ErrorKind::bad_input || error->kind() == ErrorKind::unsupported) &&
             std::string(error->what()).find(known.file.string()) != std::string::npos;
    };
    for (size_t at = 0; at < whole.size(); ++at)
      for (const char mask : {char{1}, char{-128}}) {
        flip_byte(known.file, at, mask);
        if (!refused()) FAIL_CHECK("byte " << at << " flipped");
        flip_byte(known.file, at, mask);
      }
    CHECK_NOTHROW(Checkpoints::load(known));
    for (size_t size = whole.size(); size-- > 0;) {
      fs::resize_file(known.file, size);
      if (!refused()) FAIL_CHECK("cut to " << size << " bytes");
    }
    write_file(known.file, whole);
    CHECK_NOTHROW(Checkpoints::load(known));
  }
}

TEST_CASE("checkpoints: damaged, missing and shortened packs are named") {
  const Copy intact(recorded_with_checkpoints());
  const OwnFrame own = own_frame(intact);
  CHECK(read_pages_error(intact, own.event).empty());
  const auto damaged = [&](const std::function<void(const fs::path&)>& damage, const std::string& text) {
    const Copy copy(recorded_with_checkpoints());
    const fs::path pack = copy.pack(own.pack);
    damage(pack);
    CHECK_THAT(read_pages_error(copy, own.event), Contains(pack.filename().string()) && Contains(text));
    check_passed_over(copy, own.event, pack.filename().string());
    // Nothing else minds.
    CHECK(ended_well(run_from(copy.path(), 0)));
  };
  damaged([](const fs::path& pack) { fs::remove(pack); }, "missing");
  damaged(
      [&](const fs::path& pack) {
        fs::permissions(pack, fs::perms::owner_write, fs::perm_options::add);
        fs::resize_file(pack, own.frame.offset + own.frame.length - 1);
      },
      "beyond");
  damaged(
      [](const fs::path& pack) {
        fs::remove(pack);
        fs::create_directory(pack);
      },
      "");
  for (uint32_t at = 0; at < own.frame.length; ++at) {
    if (at % 7 != 0 && at > 20) continue;
    INFO("byte " << at);
    const fs::path pack = intact.pack(own.pack);
    flip_byte(pack, own.frame.offset + at);
    CHECK_THAT(read_pages_error(intact, own.event), Contains(pack.filename().string()));
    flip_byte(pack, own.frame.offset + at);
  }
  CHECK(read_pages_error(intact, own.event).empty());
}

TEST_CASE("checkpoints: a damaged one is told of, and the one before serves") {
  for (const size_t at : {0, 70, -1}) {
    const Copy copy(recorded_with_checkpoints());
    const fs::path file = copy.at(30).file;
    flip_byte(file, at == static_cast<size_t>(-1) ? fs::file_size(file) - 1 : at);
    check_passed_over(copy, 30, file.filename().string());
  }
  const Copy copy(recorded_with_checkpoints());
  fs::remove(copy.at(30).file);
  fs::create_directory(copy.path() / "checkpoints" / Checkpoints::file_name(30));
  check_passed_over(copy, 30, Checkpoints::file_name(30));
  // Near an event without one.
  flip_byte(copy.at(29).file, 3);
  const Run run = run_from(copy.path(), 30);
  CHECK(run.result.checkpoint == 28);
  CHECK(run.warnings.size() == 2);
}

TEST_CASE("checkpoints: all damaged, and the replay is one from the start") {
  for (const bool pages : {false, true}) {
    INFO(pages);
    const Copy copy(recorded_with_checkpoints());
    for (const Checkpoints::Known& known : copy.all()) {
      if (pages)
        for (const recording::Digest128& pack : Checkpoints::load(known).packs) fs::remove(copy.pack(pack));
      else
        flip_byte(known.file, 100);
    }
    for (const MachineChoice machine : {kSoft, MachineChoice::automatic}) {
      const Run run = run_from(copy.path(), 40, machine);
      INFO(run.error);
      CHECK(ended_well(run));
      CHECK_FALSE(run.result.checkpoint);
      CHECK(run.warnings.size() == 40);
    }
  }
}

TEST_CASE("checkpoints: files of other names are none") {
  const Copy copy(recorded_with_checkpoints());
  const size_t count = copy.all().size();
  for (const char* name :
       {"e1", "e000000000001.new-1", "x000000000001", "e00000000000001", "e-00000000001", "e"})
    write_file(copy.path() / "checkpoints" / name, "none");
  CHECK(copy.all().size() == count);
  fs::remove_all(copy.path() / "checkpoints");
  CHECK(copy.all().empty());
  CHECK_FALSE(run_from(copy.path(), 30).result.checkpoint);
}

TEST_CASE("checkpoints: a guest's descriptors have their numbers while its recorder writes some") {
  for (const char* every : {"0", "10ms"}) {
    INFO(every);
    const Workplace place;
    const Finished recorded = run_tool(
        {"record", "-o", "recording", "--checkpoint-every", every, "--", NUMBERS_GUEST}, place.path());
    INFO(recorded.err);
    CHECK(recorded.status == 0);
    CHECK(recorded.out.empty());
  }
}

// Else the recorder would wait for room for pages, and the thread that makes it for the log.
TEST_CASE("checkpoints: a recorder goes on when the log fails while a checkpoint waits for its event") {
  const std::string stop_or_run = GENERATE("stop", "run");
  INFO(stop_or_run);
  const Workplace place;
  // Half of what the event writes, and far more than a checkpoint's pages take.
  How how;
  how.file_size_limit = 512 << 10;
  const Finished recorded = run_tool({"record", "-o", "recording", "--machine=soft", "--on-log-error",
                                      stop_or_run, "--checkpoint-every", "0", "--", WAITS_GUEST},
                                     place.path(), how);
  INFO(recorded.err);
  CHECK(recorded.status == (stop_or_run == "stop" ? 2 : 3));
  CHECK_THAT(recorded.err, Contains("EFBIG") && Contains("incomplete"));
  CHECK(run_tool({"replay", "-q", "recording"}, place.path()).status == 0);
}

TEST_CASE("checkpoints: a forged one can't have a blob of the log removed") {
  const Copy copy(checkpointed_later());
  Checkpoint forged = Checkpoints::load(copy.at(30));
  for (const recording::SpaceOp& op : forged.mappings)
    if (op.kind == recording::SpaceOpKind::map_blob && !op.shared) forged.packs.push_back(op.blob);
  REQUIRE(forged.packs.size() > 1);
  write_checkpoint(copy.path(), forged);
  CHECK(run_tool({"checkpoint", "--remove", "recording"}, copy.place()).status == 0);
  CHECK(names_in(copy.path() / "store") == blobs_of_log(copy.path()));
  CHECK(ended_well(run_from(copy.path(), 0)));
}

TEST_CASE("checkpoints: the command lists damage and removes what only checkpoints need") {
  const Copy copy(checkpointed_later());
  const std::vector<std::string> list = {"checkpoint", "--list", "recording"};
  const Finished whole = run_tool(list, copy.place());
  CHECK(whole.status == 0);
  CHECK_THAT(whole.out, Contains("e30 ") && !Contains("damaged"));
  flip_byte(copy.at(30).file, 100);
  const Finished listed = run_tool(list, copy.place());
  CHECK(listed.status == 2);
  CHECK_THAT(listed.out,
             Contains("e30           damaged: ") && Contains(Checkpoints::file_name(30)) && Contains("e31 "));
  // Packs are read when that is asked for.
  const Copy other(checkpointed_later());
  const OwnFrame own = own_frame(other);
  flip_byte(other.pack(own.pack), own.frame.offset + own.frame.length / 2);
  CHECK(run_tool(list, other.place()).status == 0);
  const Finished verified = run_tool({"checkpoint", "--verify", "--json", "recording"}, other.place());
  CHECK(verified.status == 2);
  for (const auto& row : nlohmann::json::parse(verified.out)) {
    if (row["event"] == own.event)
      CHECK_THAT(row["damage"].get<std::string>(), Contains(recording::to_hex(own.pack)));
    if (row["event"] < own.event) CHECK(row["damage"].is_null());
  }

  // Damage is no harm to all else.
  for (const Copy* damaged : {&copy, &other}) {
    CHECK(run_tool({"info", "recording"}, damaged->place()).status == 0);
    CHECK(run_tool({"replay", "-q", "recording"}, damaged->place()).status == 0);
    const Finished near = run_tool({"replay", "--from", "e30", "recording"}, damaged->place());
    CHECK(near.status == 0);
  }
  CHECK_THAT(run_tool({"replay", "--from", "e30", "recording"}, copy.place()).err,
             Contains("checkpoint at event 30 can't be used"));

  const std::set<std::string> needed = blobs_of_log(copy.path());
  CHECK(names_in(other.path() / "store").size() > needed.size());
  const Finished removed = run_tool({"checkpoint", "--remove", "recording"}, other.place());
  CHECK(removed.status == 0);
  CHECK(other.all().empty());
  CHECK(names_in(other.path() / "store") == needed);
  const Finished warned = run_tool({"checkpoint", "--remove", "recording"}, copy.place());
  CHECK(warned.status == 0);
  CHECK_THAT(warned.err, Contains(Checkpoints::file_name(30)));
  CHECK(copy.all().empty());
  for (const Copy* removed_from : {&copy, &other}) CHECK(ended_well(run_from(removed_from->path(), 30)));
  // They can be made again.
  CHECK(run_tool({"checkpoint", "--every", "0", "recording"}, copy.place()).status == 0);
  CHECK(run_from(copy.path(), 30).result.checkpoint == 30);
}

TEST_CASE("checkpoints: making them again leaves nothing behind that --remove does not find") {
  const Copy copy(checkpointed_later());
  CHECK(run_tool({"checkpoint", "--machine=soft", "--every", "0", "recording"}, copy.place()).status == 0);
  CHECK(run_tool({"checkpoint", "--remove", "recording"}, copy.place()).status == 0);
  CHECK(names_in(copy.path() / "store") == blobs_of_log(copy.path()));
}

TEST_CASE("checkpoints: a kill while they are made later leaves a good recording") {
  const Workplace place;
  record_bare(place, STATE_GUEST);
  for (const unsigned milliseconds : {5, 30, 60, 100, 200}) {
    run_and_kill({"checkpoint", "--every", "0", (place / "recording").string()}, place.path(), milliseconds);
    INFO(milliseconds << " ms, " << Checkpoints(place / "recording").all().size() << " checkpoints");
    const Finished replayed = run_tool({"replay", "--from", "e30", "recording"}, place.path());
    CHECK(replayed.status == 0);
    CHECK_THAT(replayed.err, !Contains("can't be used"));
    CHECK(run_tool({"checkpoint", "--verify", "recording"}, place.path()).status == 0);
  }
}

TEST_CASE("checkpoints: a recorder that is killed leaves no checkpoint without its event") {
  unsigned with_checkpoints = 0;
  for (const unsigned milliseconds : {60, 120, 200, 300, 400, 500}) {
    const Workplace place;
    run_and_kill(
        {"record", "-o", "recording", "--machine=soft", "--checkpoint-every", "0", "--", STATE_GUEST},
        place.path(), milliseconds);
    if (!fs::exists(place / "recording/checkpoints")) continue;
    const Checkpoints checkpoints(place / "recording");
    INFO(milliseconds << " ms, " << checkpoints.all().size() << " checkpoints");
    CHECK(run_tool({"replay", "-q", "recording"}, place.path()).status == 0);
    CHECK(run_tool({"checkpoint", "--verify", "recording"}, place.path()).status == 0);
    if (checkpoints.all().empty()) continue;
    ++with_checkpoints;
    const uint64_t last = checkpoints.all().back().event;
    const Run run = run_from(place / "recording", last);
    INFO(run.error);
    CHECK(run.error.empty());
    CHECK(run.warnings.empty());
    CHECK(run.result.checkpoint == last);
  }
  CHECK(with_checkpoints > 0);
}

TEST_CASE("checkpoints: a program that leaves root, user and descriptors is recorded all the same") {
  const Workplace place;
  record_bare(place, LEAVES_GUEST, {"--checkpoint-every", "0"});
  const fs::path recording = place / "recording";
  const Checkpoints checkpoints(recording);
  const uint64_t last = [&] {
    recording::Reader reader(recording);
    uint64_t number = 0;
    while (reader.next() != nullptr) number = reader.number();
    return number;
  }();
  CHECK(checkpoints.all().size() > 60);
  CHECK(last - checkpoints.all().back().event < 5);
  CHECK(names_in(recording) == std::set<std::string>{"checkpoints", "events", "meta", "store"});
  for (const Checkpoints::Known& known : checkpoints.all())
    if (known.event % 5 == 0 || known.event + 5 > last) {
      INFO("event " << known.event);
      const Run run = run_from(recording, known.event);
      CHECK(ended_well(run));
      CHECK(run.result.checkpoint == known.event);
    }
}

}  // namespace aftercheck::test
