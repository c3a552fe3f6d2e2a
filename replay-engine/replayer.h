// Replays a recording.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "machine/vcpu.h"
#include "replay-engine/participant.h"

namespace aftercheck {

struct ReplayOptions {
  std::filesystem::path directory;
  MachineChoice machine = MachineChoice::automatic;
  // Bytes of the program's standard output (1) and error (2), in order. Null: dropped.
  std::function<void(int stream, const std::byte* bytes, size_t size)> output;
  // Name of a system call's number, for divergence reports. Null: "system call 42".
  std::function<std::string(uint64_t number)> system_call_name;
  // Called now and then with a share of 0..1 and the number of events so far. Null: none.
  std::function<void(double share, uint64_t events)> progress;
  // In the order in which they are called; they must outlive the replay.
  std::vector<Participant*> participants;
};

struct ReplayResult {
  uint64_t events = 0;          // exits verified (the start and end events not counted)
  uint64_t memory_digests = 0;  // stretches of memory verified
  MachineKind machine = MachineKind::kvm;
  bool truncated =
      false;  // the recording has no end; `truncation` says why. All of it that is there was faithful
  std::string truncation;
  bool signaled = false;  // how the program ended (meaningless when truncated)
  int status = 0;
};

// The replay left the recording. what() is the whole report: event number, what was expected, what came.
class Divergence : public Error {
 public:
  Divergence(uint64_t event, const std::string& expected, const std::string& actual,
             const std::string& detail);
  uint64_t event() const { return event_; }
  const std::string& expected() const { return expected_; }
  const std::string& actual() const { return actual_; }
  const std::string& detail() const { return detail_; }

 private:
  uint64_t event_;
  std::string expected_, actual_, detail_;
};

// Throws Divergence; Error(bad_input) for a damaged recording; Error(unsupported) naming instruction and
// address when the soft vCPU lacks it; Error(host_lacks) when KVM was asked for and does not work.
ReplayResult replay(const ReplayOptions& options);

}  // namespace aftercheck
