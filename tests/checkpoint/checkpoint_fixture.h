// A recording with checkpoints, and copies of it that tests may damage.
#pragma once

#include <fstream>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "recording/digest.h"
#include "tests/replay-engine/replay_fixture.h"

namespace aftercheck::test {

namespace fs = std::filesystem;

// By the recorder, at every event.
inline const fs::path& recorded_with_checkpoints() {
  static const Workplace place;
  static const fs::path recording = [] {
    record_bare(place, STATE_GUEST, {"--checkpoint-every", "0"});
    return place / "recording";
  }();
  return recording;
}

// Afterwards, from a recording without any.
inline const fs::path& checkpointed_later() {
  static const Workplace place;
  static const fs::path recording = [] {
    record_bare(place, STATE_GUEST);
    const Finished made =
        run_tool({"checkpoint", "--machine=soft", "--every", "0", "recording"}, place.path());
    INFO(made.err);
    REQUIRE(made.status == 0);
    return place / "recording";
  }();
  return recording;
}

class Copy {
 public:
  explicit Copy(const fs::path& of) : path_(place_ / "recording") {
    fs::copy(of, path_, fs::copy_options::recursive);
  }
  const fs::path& path() const { return path_; }
  const fs::path& place() const { return place_.path(); }
  std::vector<Checkpoints::Known> all() const { return Checkpoints(path_).all(); }
  Checkpoints::Known at(uint64_t event) const {
    const Checkpoints checkpoints(path_);
    const Checkpoints::Known* known = checkpoints.before(event);
    REQUIRE(known != nullptr);
    REQUIRE(known->event == event);
    return *known;
  }
  fs::path pack(const recording::Digest128& name) const { return path_ / "store" / recording::to_hex(name); }

 private:
  Workplace place_;
  fs::path path_;
};

inline void flip_byte(const fs::path& file, uint64_t at, char mask = 1) {
  fs::permissions(file, fs::perms::owner_write, fs::perm_options::add);
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekg(static_cast<std::streamoff>(at));
  const char byte = static_cast<char>(stream.get() ^ mask);
  stream.seekp(static_cast<std::streamoff>(at));
  stream.put(byte);
  REQUIRE(stream.good());
}

struct Run {
  std::vector<std::string> warnings;
  ReplayResult result;
  std::string error;  // what it ended with, if not well
  bool divergence = false;
};

// From near an event to the end.
inline Run run_from(const fs::path& recording, uint64_t event, MachineChoice machine = kSoft) {
  Run run;
  ReplayOptions options = options_for(recording, machine);
  options.start_near = event;
  options.warning = [&](const std::string& text) { run.warnings.push_back(text); };
  try {
    Replay replay(options);
    while (replay.advance().why != Stop::Why::end) continue;
    run.result = replay.result();
  } catch (const Divergence& error) {
    run.divergence = true;
    run.error = error.what();
  } catch (const Error& error) {
    run.error = error.what();
  }
  return run;
}

inline bool ended_well(const Run& run) {
  return run.error.empty() && run.result.ended && !run.result.truncated && run.result.memory_digests > 0;
}

}  // namespace aftercheck::test
