// Checkpoints that are kept in a recording: the whole state of the guest between two events, so that a replay
// can start there.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "machine/registers.h"
#include "recording/event.h"
#include "recording/log_place.h"
#include "recording/store.h"

namespace aftercheck {

struct CheckpointThread {
  uint32_t number = 0;
  Registers registers;
  FpuState fpu;
  uint64_t digest = 0;  // recording::RunningDigest::value()
};

// What tells one checkpoint from another, and what it takes to use it.
struct CheckpointSummary {
  uint64_t event = 0;        // the last entry of the log that was applied, as Reader counts
  uint64_t time_ns = 0;      // its time, since the start of the recording
  uint64_t work_ns = 0;      // processor time that the run, or the replay that made it, had taken
  recording::LogPlace next;  // where the entry after it is
  uint64_t pages = 0;        // of 4 KiB, that starting from here brings in
  uint64_t new_pages = 0;    // of them no earlier checkpoint of the same writer had
};

// A file that is mapped shared.
struct CheckpointFile {
  uint64_t number = 0, length = 0;
  bool sized = false;  // the log says how long it is
};

// A zstd frame of pages in a pack: a blob of the store that is nothing but such frames.
struct PageFrame {
  uint32_t pack = 0;
  uint64_t offset = 0;
  uint32_t length = 0, pages = 0;
  recording::Digest128 digest{};  // of the frame's bytes in the pack
};

// Pages that follow one another, in memory and in their frame.
struct PageRun {
  uint64_t file = 0;     // 0: guest memory; else the number of a shared file
  uint64_t address = 0;  // or offset in the file
  uint32_t frame = 0, first_page = 0, pages = 0;
};

constexpr uint32_t kFramePages = 16;
constexpr size_t kMaxCheckpointThreads = 1 << 16;

struct Checkpoint : CheckpointSummary {
  std::vector<CheckpointThread> threads;
  std::vector<recording::SpaceOp> mappings;  // as describe_mappings() gives them
  std::vector<recording::CodePatch> patches;
  std::vector<CheckpointFile> files;
  std::vector<recording::Digest128> packs;
  std::vector<PageFrame> frames;
  std::vector<PageRun> runs;  // by frame
};

// The checkpoints of a recording, without their contents. Everything read is hostile: Error(bad_input) names
// file and what is wrong; Error(unsupported) names a newer version.
class Checkpoints {
 public:
  struct Known {
    uint64_t event = 0;
    std::filesystem::path file;
  };

  // None where the recording has none. Throws Error(io).
  explicit Checkpoints(const std::filesystem::path& directory);

  // By event.
  const std::vector<Known>& all() const { return all_; }
  // The last that is not behind this event; null: none.
  const Known* before(uint64_t event) const;

  static CheckpointSummary summary(const Known& known);
  // All but the contents of pages: see read_pages().
  static Checkpoint load(const Known& known);

  static std::filesystem::path folder(const std::filesystem::path& directory) {
    return directory / "checkpoints";
  }
  static std::string file_name(uint64_t event);

 private:
  std::vector<Known> all_;
};

// Calls put(run, bytes) for every run of pages, each checked against its digest before. Throws
// Error(bad_input) naming the pack when it is missing or damaged; some runs may have been put by then.
void read_pages(const Checkpoint& checkpoint, const recording::Store& store,
                const std::function<void(const PageRun& run, std::span<const std::byte> bytes)>& put);

// Writes DIR/checkpoints/NAME at once or not at all; it replaces one that is there. Throws Error(io).
void write_checkpoint(const std::filesystem::path& directory, const Checkpoint& checkpoint);

}  // namespace aftercheck
