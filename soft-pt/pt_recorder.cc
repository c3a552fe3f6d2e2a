#include "soft-pt/pt_recorder.h"

#include "base/error.h"

namespace aftercheck {
namespace {

constexpr size_t kDataBytes = 256 << 10;
// What kill -9 costs at most.
constexpr std::chrono::milliseconds kAge{1000};

recording::PtFormat format_of(const SoftPtOptions& options) {
  recording::PtFormat format;
  format.source = options.source;
  format.capabilities = "software encoder; no timing packets, no return compression";
  return format;
}

}  // namespace

void PtLogSink::tick() { writer_.flush_older_than(kAge); }

SoftPtRecorder::SoftPtRecorder(const SoftPtOptions& options)
    : loses_(options.loses),
      memory_(kDataBytes, options.ring_bytes),
      producer_(memory_.rings()),
      writer_(options.directory, options.thread, format_of(options), options.folder),
      sink_(writer_),
      drain_(memory_.rings(), sink_),
      tracer_([this](std::span<const uint8_t> bytes) { return put(bytes); }, options.encoder) {}

bool SoftPtRecorder::put(std::span<const uint8_t> bytes) {
  if (loses_) {
    // What is lost must be told of before anything follows it.
    if (lost_ && !told_) {
      const uint64_t before = producer_.written();
      const size_t size = producer_.put(std::span<const uint8_t>(&kPadding, 1), PERF_AUX_FLAG_TRUNCATED);
      told_ = size == 1 && producer_.written() == before + 1;
      if (!told_) return false;
    }
    if (loses_() || producer_.room() < bytes.size() + 1 || producer_.put(bytes) != bytes.size()) {
      lost_ = true;
      told_ = false;
      return false;
    }
    lost_ = false;
    return true;
  }
  for (;;) {
    bytes = bytes.subspan(producer_.put(bytes));
    if (bytes.empty()) return true;
    drain_.hurry();
  }
}

void SoftPtRecorder::finish() {
  tracer_.flush();
  drain_.finish();
  if (const std::string error = drain_.error(); !error.empty()) fail(ErrorKind::io, "{}", error);
  writer_.finish();
}

}  // namespace aftercheck
