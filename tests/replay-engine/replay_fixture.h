// Records the bare guests as a user would and replays them in this process.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "recording/reader.h"
#include "replay-engine/replay.h"
#include "tests/tools/tool_runner.h"

namespace aftercheck::test {

constexpr MachineChoice kSoft = MachineChoice::soft, kKvm = MachineChoice::kvm,
                        kTranslated = MachineChoice::translated;

// Records into `recording`, if nothing else is said on the soft vCPU, which every host has.
inline void record_bare(const Workplace& place, const std::string& guest,
                        const std::vector<std::string>& options = {}, const std::string& machine = "soft") {
  std::vector<std::string> words = {"record", "-o", "recording", "--machine=" + machine};
  words.insert(words.end(), options.begin(), options.end());
  words.insert(words.end(), {"--", guest});
  const Finished finished = run_tool(words, place.path());
  INFO(finished.err);
  REQUIRE(finished.status < 50);
  REQUIRE(finished.signal == 0);
}

// What the guest tells with tell(what, value): values by `what`, with the events that tell them.
struct Told {
  uint64_t event = 0, value = 0;
};
inline std::multimap<uint64_t, Told> told_by(const std::filesystem::path& recording) {
  std::multimap<uint64_t, Told> told;
  recording::Reader reader(recording);
  constexpr uint64_t kMark = 0x7e57;
  while (const recording::Event* event = reader.next())
    if (event->operands.size() >= 4 && event->operands[3] == kMark)
      told.insert({event->operands[1], {reader.number(), event->operands[2]}});
  return told;
}

inline ReplayOptions options_for(const std::filesystem::path& recording, MachineChoice machine) {
  ReplayOptions options;
  options.directory = recording;
  options.machine = machine;
  return options;
}

// For test cases that are of one machine only, so that a skip covers up nothing else.
inline bool works_on(MachineChoice machine, const std::filesystem::path& recording) {
  try {
    Replay replay(options_for(recording, machine));
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::host_lacks) throw;
    WARN("SKIPPED: the machine can't be used on this host: " << error.what());
    return false;
  }
}

// A test case for each machine, in each of which `machine` is what to choose; `recording` is what it replays.
#define ON_EACH_MACHINE(name, recording, call)     \
  TEST_CASE(name ", on the soft vCPU") {           \
    constexpr MachineChoice machine = kSoft;       \
    call;                                          \
  }                                                \
  TEST_CASE(name ", on KVM") {                     \
    constexpr MachineChoice machine = kKvm;        \
    if (works_on(machine, recording)) call;        \
  }                                                \
  TEST_CASE(name ", translated") {                 \
    constexpr MachineChoice machine = kTranslated; \
    if (works_on(machine, recording)) call;        \
  }

// To the recording's end, faithfully.
inline bool ends_well(Replay& replay) {
  for (;;)
    if (replay.advance().why == Stop::Why::end) break;
  return replay.result().ended && !replay.result().truncated && replay.result().memory_digests > 0;
}

// Runs `work` in a child that was forked from a replay, which never returns to Catch: the parent judges its
// exit status.
template <typename Work>
[[noreturn]] void end_child(Work work) {
  int status = 1;
  try {
    status = work() ? 0 : 2;
  } catch (const std::exception& error) {
    fprintf(stderr, "child: %s\n", error.what());
  }
  _exit(status);
}
inline int exit_status_of(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

template <typename Call>
std::optional<Error> error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

}  // namespace aftercheck::test
