// What each segment of a recording executed, by the recording's own PT trace, in step with a replay.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "pt-replay/recorded_code.h"
#include "pt-trace/flow_decoder.h"
#include "pt-trace/landing_plan.h"
#include "recording/pt_log.h"

namespace aftercheck {

// Not thread-safe. Memory: the code, one chunk of the trace, and what the SegmentFlow keeps.
class TraceSegments : private pt::FlowSink {
 public:
  // Null where the recording has no trace that says exactly where segments begin: none at all, one with
  // losses or cut short, or a processor's, which has no marks. Throws Error bad_input, io.
  static std::unique_ptr<TraceSegments> open(const std::filesystem::path& directory);

  // For SegmentFlow.
  const pt::FlowDecoder& decoder() const { return decoder_; }

  // Fills `flow` with the segment that follows this event and its continuations; events must not go back.
  // False where the trace could not be followed, because code is not in the log or bytes are damaged.
  bool follow(uint64_t event, pt::SegmentFlow& flow);

 private:
  recording::PtLogReader reader_;
  RecordedCode code_;
  pt::FlowDecoder decoder_;
  pt::SegmentFlow* flow_ = nullptr;
  bool followed_ = true;
  const recording::PtRecord* mark_ = nullptr;  // read already: the one behind the segment asked for last
  uint64_t begun_ = 0;                         // the event before the segment that was begun
  bool ended_ = false;

  explicit TraceSegments(const std::filesystem::path& directory);
  void begin_segment(uint64_t event);
  void on_blocks(std::span<const pt::BlockId> blocks) override;
  void on_event(const pt::FlowEvent& event) override;
};

}  // namespace aftercheck
