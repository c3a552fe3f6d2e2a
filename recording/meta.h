// The `meta` file of a recording: what was recorded, where and how. JSON, so that people and scripts can read
// it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace aftercheck::recording {

// Raised when a reader of this version could misread what a newer writer wrote.
constexpr uint32_t kFormatVersion = 2;  // 2: blobs may lie compressed

// A call of the program that can't be recorded, and was answered with an error without being done.
struct AnsweredCall {
  std::string call;    // for people: "clone (a new thread)"
  std::string answer;  // the error's name: "ENOSYS"
  uint64_t times = 0;

  bool operator==(const AnsweredCall&) const = default;
};

struct Meta {
  uint32_t format_version = kFormatVersion;
  std::string writer;  // "aftercheck 0.1.0"
  std::vector<std::string> command;
  std::string working_directory;
  std::vector<std::string> environment;
  std::string machine;    // "kvm" or "soft"
  std::string cpu_model;  // "portable", "host" or "v3"
  std::string host_cpu, host_kernel, host_name;
  uint64_t start_time_ns = 0;                       // CLOCK_REALTIME, nanoseconds since the epoch
  std::map<std::string, std::string> capabilities;  // what was probed: name -> value
  // Empty in recordings of programs that made no such call, and in those of earlier versions.
  std::vector<AnsweredCall> answered_calls;
  // The call that can't be recorded and at which the recorder ended the program; empty: it did not.
  std::string stopped_at;
};

// Throws Error(io). Written atomically (temporary file, rename, fsync): before the first event, and again
// when there is something to add. `synced` false: whoever calls sees to it that file and folder get to the
// disk (Store::bring_to_disk).
void write_meta(const std::filesystem::path& directory, const Meta& meta, bool synced = true);
// Throws Error(bad_input) naming file and field, Error(unsupported) for a newer format version (naming both
// versions), Error(bad_input) "not a recording" when `directory` has no meta. Reads at most 64 MiB.
Meta read_meta(const std::filesystem::path& directory);

}  // namespace aftercheck::recording
