// Writes checkpoints of a replay's guest into the recording.
#pragma once

#include <cstdint>
#include <functional>

#include "checkpoint/checkpoint_writer.h"
#include "replay-engine/replay.h"

namespace aftercheck {

// Register it as a participant of one replay that starts from the start.
class Checkpointer : public Participant {
 public:
  // Where `wanted` is given it says after which events checkpoints are taken, instead of the time.
  explicit Checkpointer(const CheckpointWriterOptions& options,
                        std::function<bool(uint64_t event)> wanted = {})
      : writer_(options), wanted_(std::move(wanted)) {}

  void attach(Replay& replay) override { replay_ = &replay; }
  void running(uint64_t number) override;
  // Waits until all are written. Throws Error(io).
  void finished(const ReplayResult& result) override;
  void detach() noexcept override { replay_ = nullptr; }

  CheckpointWriter::Statistics statistics() const { return writer_.statistics(); }

 private:
  Replay* replay_ = nullptr;
  CheckpointWriter writer_;
  const std::function<bool(uint64_t event)> wanted_;
};

}  // namespace aftercheck
