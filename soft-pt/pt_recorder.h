// Makes the PT trace of one guest thread, on a machine that tells its branches, and brings it into a
// recording, through the ring and the drain that a processor's trace comes through.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "pt-trace/aux_drain.h"
#include "recording/pt_log.h"
#include "soft-pt/soft_tracer.h"

namespace aftercheck {

// What a drain hands over goes to the log; marks are event numbers.
class PtLogSink : public pt::MarkedAuxSink {
 public:
  explicit PtLogSink(recording::PtLogWriter& writer) : writer_(writer) {}
  void data(std::span<const uint8_t> bytes) override { writer_.data(bytes); }
  void mark(uint64_t value) override { writer_.mark(value); }
  void loss(uint8_t flags, uint64_t lost) override { writer_.loss(flags, lost); }
  void tick() override;

 private:
  recording::PtLogWriter& writer_;
};

struct SoftPtOptions {
  std::filesystem::path directory;  // of the recording
  uint32_t thread = 0;
  recording::PtSource source = recording::PtSource::soft;
  std::string folder = "pt";
  size_t ring_bytes = 4 << 20;  // a power of two
  // Empty: the vCPU waits for room in the ring, and nothing is lost. Otherwise bytes are dropped as hardware
  // drops them, where there is no room and where this returns true: tests say so when losses are. Called on
  // the vCPU's thread.
  std::function<bool()> loses;
  pt::EncoderOptions encoder;
};

class SoftPtRecorder {
 public:
  // Throws Error io.
  explicit SoftPtRecorder(const SoftPtOptions& options);
  SoftPtRecorder(const SoftPtRecorder&) = delete;
  SoftPtRecorder& operator=(const SoftPtRecorder&) = delete;

  // For Vcpu::set_control_flow(), and to be told where the guest exits and goes on.
  SoftTracer& tracer() { return tracer_; }
  // The guest is at the exit of this event, which the tracer has been told of.
  void mark(uint64_t event) { drain_.mark(producer_.written(), event); }
  // Everything is written and the trace marked as whole. Throws Error io with what went wrong, now or
  // earlier.
  void finish();
  // As PtLogWriter's.
  void leave_to_parent() { writer_.leave_to_parent(); }
  // True when the trace ends early; why. Any thread.
  bool failed() const { return drain_.failed(); }
  std::string error() const { return drain_.error(); }

 private:
  static constexpr uint8_t kPadding = 0;  // a PAD packet

  const std::function<bool()> loses_;
  bool lost_ = false, told_ = false;  // something was dropped; a record tells of it
  pt::AuxMemory memory_;
  pt::AuxProducer producer_;
  recording::PtLogWriter writer_;
  PtLogSink sink_;
  pt::AuxDrain drain_;
  SoftTracer tracer_;

  bool put(std::span<const uint8_t> bytes);
};

}  // namespace aftercheck
