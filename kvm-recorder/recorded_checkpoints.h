// Checkpoints that are taken while a guest is recorded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "checkpoint/checkpoint_writer.h"
#include "kvm-recorder/logged_space.h"
#include "machine/vcpu.h"
#include "recording/digest.h"
#include "recording/writer.h"

namespace aftercheck {

class RecordedCheckpoints {
 public:
  // `memory` and `log` must outlive this; made before the guest runs. Throws Error(io).
  RecordedCheckpoints(const std::filesystem::path& directory, uint64_t every_ns, LoggedSpace& memory,
                      recording::Writer& log);

  bool due(uint64_t time_ns) const { return writer_.due(time_ns); }
  // The guest stands between the event just appended and the next, which will be the log's entry
  // `next_entry`; `threads` have its state. Throws Error(io) where guest memory can't be read.
  void take(uint64_t next_entry, uint64_t time_ns, const std::vector<CheckpointThread>& threads);
  // After the log is finished. Throws Error(io).
  void finish() { writer_.finish(); }
  // As CheckpointWriter's.
  void leave_to_parent() { writer_.leave_to_parent(); }
  // Empty, or why there are no more.
  std::string error() const { return writer_.failed() ? writer_.error() : std::string(); }

 private:
  LoggedSpace& memory_;
  recording::Writer& log_;
  CheckpointWriter writer_;
};

}  // namespace aftercheck
