// The `meta` file of a recording: what was recorded, where and how. JSON, so that people and scripts can read
// it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace aftercheck::recording {

// Raised when a reader of this version could misread what a newer writer wrote.
// 2: blobs may lie compressed. 3: the log has short digests.
constexpr uint32_t kFormatVersion = 3;

// A call of the program that can't be recorded, and was answered with an error without being done.
struct AnsweredCall {
  std::string call;    // for people: "clone (a new thread)"
  std::string answer;  // the error's name: "ENOSYS"
  uint64_t times = 0;

  bool operator==(const AnsweredCall&) const = default;
};

// Where a process comes from.
struct Parent {
  uint32_t process = 0;  // its number in the recording
  uint64_t event = 0;    // of its log: the call that made the child

  bool operator==(const Parent&) const = default;
};

// A capability: this process, or the one that made it, has shared memory with others, so that it is replayed
// together with them (EventKind::turn).
constexpr const char* kSharesMemory = "shares_memory";

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
  // Which process of the recording it is of: 0 the first, which has no parent. And its number in the system
  // where it was recorded; 0 in recordings of earlier versions.
  uint32_t process = 0;
  std::optional<Parent> parent;
  uint32_t recording = 0;  // recording_id() of the first one's
  uint32_t process_id = 0;
  // The call that can't be recorded and at which the recorder ended the program; empty: it did not.
  std::string stopped_at;
};

// Throws Error(io). Written atomically (temporary file, rename, fsync): before the first event, and again
// when there is something to add. `synced` false: whoever calls sees to it that file and folder get to the
// disk (Store::bring_to_disk).
void write_meta(const std::filesystem::path& directory, const Meta& meta, bool synced = true);

// Writes over what is there, in one piece, which only the machine's end can interrupt: a new file each time
// is most of what a process costs that does little. Whoever calls sees to it that it gets to the disk.
void write_meta_over(const std::filesystem::path& directory, const Meta& meta);
// Throws Error(bad_input) naming file and field, Error(unsupported) for a newer format version (naming both
// versions), Error(bad_input) "not a recording" when `directory` has no meta. Reads at most 64 MiB.
Meta read_meta(const std::filesystem::path& directory);

}  // namespace aftercheck::recording
