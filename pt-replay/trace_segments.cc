#include "pt-replay/trace_segments.h"

#include <algorithm>

namespace aftercheck {
namespace {

pt::FlowOptions options_of(const recording::PtFormat& format) {
  pt::FlowOptions options;
  options.return_compression = format.return_compression;
  return options;
}

}  // namespace

std::unique_ptr<TraceSegments> TraceSegments::open(const std::filesystem::path& directory) {
  const std::vector<uint32_t> threads = recording::pt_threads(directory);
  if (std::find(threads.begin(), threads.end(), 0) == threads.end()) return nullptr;
  const recording::PtSummary summary = recording::summarize_pt(directory, 0);
  if (!summary.complete || summary.losses != 0 || summary.format.source == recording::PtSource::perf)
    return nullptr;
  return std::unique_ptr<TraceSegments>(new TraceSegments(directory));
}

TraceSegments::TraceSegments(const std::filesystem::path& directory)
    : reader_(directory, 0), code_(directory), decoder_(code_.image(), *this, options_of(reader_.format())) {}

bool TraceSegments::follow(uint64_t event, pt::SegmentFlow& flow) {
  flow_ = &flow;
  begin_segment(begun_);
  const recording::PtRecord* record = mark_;
  for (mark_ = nullptr; !ended_; record = nullptr) {
    if (record == nullptr) record = reader_.next();
    if (record == nullptr) {
      ended_ = true;
      decoder_.finish();
    } else if (record->kind == recording::PtRecord::Kind::data) {
      decoder_.feed(record->bytes);
    } else if (record->kind == recording::PtRecord::Kind::mark) {
      if (record->event > event) {
        mark_ = record;
        break;
      }
      begin_segment(record->event);
    }
  }
  flow_ = nullptr;
  return followed_;
}

// What was decoded up to here belongs to segments before this event.
void TraceSegments::begin_segment(uint64_t event) {
  begun_ = event;
  code_.answered(event);
  flow_->clear();
  followed_ = true;
}

void TraceSegments::on_blocks(std::span<const pt::BlockId> blocks) {
  if (flow_ != nullptr) flow_->add(blocks);
}

void TraceSegments::on_event(const pt::FlowEvent& event) {
  if (event.kind == pt::FlowEventKind::error || event.kind == pt::FlowEventKind::overflow) followed_ = false;
}

}  // namespace aftercheck
