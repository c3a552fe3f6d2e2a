// Writes checkpoints of a guest into its recording, while it is recorded or replayed.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/page_collector.h"

namespace aftercheck {

struct CheckpointWriterOptions {
  std::filesystem::path directory;
  // Host time of the recorded run between two checkpoints, ns; 0: at every chance.
  uint64_t every_ns = 0;
  // At most one part in so many of the time goes into checkpoints; 0: whatever they take. Where they would
  // cost more they come less often.
  unsigned share = 20;
  // The guest is one that is recorded: descriptors are kept out of its table (base/fd.h).
  bool beside_guest = false;
};

// Finding and copying what differs is done by the caller's thread, while the guest stands still; compressing
// and writing by a thread of the writer's own, which has the credentials and the root directory of the time
// when it was made. Not thread-safe.
class CheckpointWriter {
 public:
  // Where an entry of the log can be read, if its chunk is written; asked until it is known. Called on the
  // writer's thread.
  using PlaceOf = std::function<std::optional<recording::LogPlace>()>;

  // Throws Error(io).
  explicit CheckpointWriter(const CheckpointWriterOptions& options);
  ~CheckpointWriter();  // like finish(), errors swallowed
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Is it time for the next one, when the recorded run has come to this host time? Cheap.
  bool due(uint64_t time_ns) const;
  // Takes one; `summary` needs event, time and work only. Blocks while much waits to be written. Throws
  // Error(io) where guest memory can't be read; what the disk refuses is told by failed() later.
  void take(const CheckpointSummary& summary, std::vector<CheckpointThread> threads,
            const GuestMemory& memory, PlaceOf place);
  // Waits until all are written. Throws Error(io) when one could not be; those before it are whole.
  void finish();

  // In a process that fork(2) has made, for the copy of its parent's: its files are closed, and it must not
  // be used again.
  void leave_to_parent();

  bool failed() const;
  std::string error() const;

  struct Statistics {
    uint64_t checkpoints = 0, pages = 0, new_pages = 0;
    uint64_t written_bytes = 0;  // of packs
    double seconds = 0;          // that guests stood still
  };
  // After finish() it is complete.
  Statistics statistics() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Processor time that this process has used, ns.
uint64_t process_work_ns();

}  // namespace aftercheck
