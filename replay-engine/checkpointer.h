// Writes checkpoints of a replay's guest into the recording.
#pragma once

#include <optional>

#include "checkpoint/checkpoint_writer.h"
#include "replay-engine/replay.h"

namespace aftercheck {

// Register it as a participant of one replay that starts from the start.
class Checkpointer : public Participant {
 public:
  explicit Checkpointer(const CheckpointWriterOptions& options) : writer_(options) {}

  void attach(Replay& replay) override { replay_ = &replay; }
  void running(uint64_t number) override;
  // Waits until all are written. Throws Error(io).
  void finished(const ReplayResult& result) override;
  void detach() noexcept override { replay_ = nullptr; }

  CheckpointWriter::Statistics statistics() const { return writer_.statistics(); }

 private:
  Replay* replay_ = nullptr;
  CheckpointWriter writer_;
};

}  // namespace aftercheck
