#include "pt-replay/pt_check.h"

#include <sys/mman.h>

#include <exception>
#include <optional>
#include <vector>

#include "pt-replay/recorded_code.h"
#include "pt-replay/segment_bytes.h"
#include "pt-trace/branch_stream.h"
#include "pt-trace/flow_compare.h"
#include "recording/pt_log.h"
#include "replay-engine/replay.h"
#include "soft-pt/soft_tracer.h"

namespace aftercheck {
namespace {

using recording::PtLogReader;
using recording::PtRecord;

// What the recording's trace has for one event.
struct RecordedSegment {
  std::optional<pt::StreamExit> exit;
  uint64_t exits = 0;           // more than one: not the trace of this segment alone
  uint64_t begin = 0, end = 0;  // AUX offsets
  bool lossy = false;
};

// The recording's trace, segment by segment, by the marks that tie it to events.
class RecordedStream {
 public:
  RecordedStream(const std::filesystem::path& directory, uint32_t thread)
      : reader_(directory, thread), stream_([this](const pt::StreamExit& exit) {
          if (segment_.exits++ == 0) segment_.exit = exit;
        }) {}

  // The segment that ends with this event; null where the trace has none.
  const RecordedSegment* advance_to(uint64_t event) {
    while (!mark_ || *mark_ < event) {
      segment_ = {};
      segment_.begin = segment_.end = offset_;
      mark_.reset();
      if (!read_to_mark()) return nullptr;
    }
    return *mark_ == event ? &segment_ : nullptr;
  }
  // Where the segment after the last one starts.
  uint64_t offset() const { return offset_; }
  std::string why_ended() const {
    std::string why;
    return reader_.truncated(&why) ? why : "the recording's trace ends before it";
  }
  const std::string& last_loss() const { return loss_; }

 private:
  PtLogReader reader_;
  pt::BranchStream stream_;
  RecordedSegment segment_;
  std::optional<uint64_t> mark_;
  uint64_t offset_ = 0;
  std::string loss_;

  bool read_to_mark() {
    while (const PtRecord* record = reader_.next()) {
      switch (record->kind) {
        case PtRecord::Kind::data:
          stream_.feed(record->bytes);
          offset_ = record->offset + record->bytes.size();
          break;
        case PtRecord::Kind::loss:
          stream_.mark_lost();
          segment_.lossy = true;
          loss_ = fmt::format("AUX data {} at offset {}", recording::describe_pt_loss(record->flags),
                              record->offset);
          break;
        case PtRecord::Kind::mark:
          stream_.settle_exit();
          segment_.end = offset_;
          mark_ = record->event;
          return true;
      }
    }
    return false;
  }
};

std::string outcome(const pt::FlowDifference& difference, uint64_t to, const std::string& where) {
  if (!difference.conditional) return fmt::format("to {}", where);
  return fmt::format("{} (to {})", to == difference.taken_target ? "taken" : "not taken", where);
}

}  // namespace

class PtCheck::Impl {
 public:
  explicit Impl(const Options& options)
      : options_(options),
        recorded_(options.directory, options.thread),
        stream_([this](const pt::StreamExit& exit) { exit_ = exit; }),
        tracer_([this](std::span<const uint8_t> bytes) { return take(bytes); }) {}

  const Result& result() const { return result_; }

  void attach(Replay& replay) {
    guest_ = &replay.guest();
    if (!options_.waits) follow_wanted();
  }

  void begin() {
    options_.waits = false;
    follow_wanted();
    applied();
  }

  void follow_wanted() {
    follow_vcpu();
    if (!result_.active && options_.required)
      fail(ErrorKind::usage,
           "--pt=soft compares the branches that the machine tells, and KVM tells none; leave --machine out");
  }

  void follow_vcpu() {
    if (!options_.waits) result_.active = guest_->own_vcpu().set_control_flow(&tracer_);
  }

  void detach() noexcept {
    if (guest_ != nullptr && result_.active) guest_->own_vcpu().set_control_flow(nullptr);
  }

  void applied() {
    if (!result_.active) return;
    start_ = guest_->running().registers().rip;
    tracer_.resume(start_);
  }

  void reached(const recording::Event& event, uint64_t number) {
    if (!result_.active) return;
    tracer_.exited(event);
    rethrow();
    stream_.settle_exit();
    const RecordedSegment* recorded = recorded_.advance_to(number);
    if (is_verified(recorded)) {
      if (recorded->exits != 1 || recorded->exit->segment != exit_->segment) differ(event, number, *recorded);
      ++result_.compared;
      result_.branches += exit_->branch_bits + exit_->targets;
    }
    exit_.reset();
    bytes_.clear();
  }

  // The guest has come to another exit than the recorded one.
  std::string explain(uint64_t number) {
    if (!result_.active) return {};
    tracer_.flush();
    rethrow();
    const RecordedSegment* recorded = recorded_.advance_to(number);
    if (recorded == nullptr || recorded->lossy)
      return "the recording's PT trace says nothing about this segment";
    return follow(number, *recorded);
  }

 private:
  Options options_;
  Guest* guest_ = nullptr;
  Result result_;
  RecordedStream recorded_;
  pt::BranchStream stream_;
  SoftTracer tracer_;
  SegmentBytes bytes_;  // of the segment under way
  std::optional<pt::StreamExit> exit_;
  uint64_t start_ = 0;  // address
  std::exception_ptr failure_;

  // Called out of the vCPU, so nothing may escape.
  bool take(std::span<const uint8_t> bytes) noexcept {
    try {
      stream_.feed(bytes);
      bytes_.append(bytes);
    } catch (...) {
      if (!failure_) failure_ = std::current_exception();
    }
    return true;
  }

  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

  // False, and counted, where nothing can be said.
  bool is_verified(const RecordedSegment* recorded) {
    std::string why;
    if (recorded == nullptr || recorded->exits == 0)
      why = recorded_.last_loss().empty() ? recorded_.why_ended() : recorded_.last_loss();
    else if (recorded->lossy || !recorded->exit->verified)
      why = recorded_.last_loss().empty() ? "the recording's trace has a gap or damaged packets"
                                          : recorded_.last_loss();
    else if (!exit_ || !exit_->verified)
      why = "the vCPU could not tell how the guest got on";
    if (why.empty()) return true;
    if (result_.unverified++ == 0) result_.reason = why;
    return false;
  }

  [[noreturn]] void differ(const recording::Event& event, uint64_t number, const RecordedSegment& recorded) {
    throw Divergence(number,
                     fmt::format("{} branches on the way to {:#x}, digest {:016x}",
                                 recorded.exit->branch_bits + recorded.exit->targets, event.rip,
                                 recorded.exit->segment.high),
                     fmt::format("{} branches on the way to the same exit, digest {:016x}",
                                 exit_->branch_bits + exit_->targets, exit_->segment.high),
                     follow(number, recorded));
  }

  // Both traces through the guest's code as it is now.
  std::string follow(uint64_t number, const RecordedSegment& recorded) {
    const pt::CodeImage image = guest_code();
    pt::FlowComparison comparison(image, start_);
    PtLogReader reader(options_.directory, options_.thread);
    reader.seek(recorded.begin);
    bytes_.visit([&](std::span<const uint8_t> piece) {
      comparison.feed_second(piece);
      feed_recorded(reader, recorded, comparison);
      return !comparison.difference();
    });
    while (!comparison.difference() && feed_recorded(reader, recorded, comparison)) continue;
    comparison.finish();
    return describe(number, comparison);
  }

  // The next piece of the recorded segment; false when there is none.
  static bool feed_recorded(PtLogReader& reader, const RecordedSegment& segment,
                            pt::FlowComparison& comparison) {
    while (const PtRecord* record = reader.next()) {
      if (record->offset >= segment.end) return false;
      if (record->kind != PtRecord::Kind::data) continue;
      std::span<const uint8_t> bytes = record->bytes;
      if (record->offset + bytes.size() <= segment.begin) continue;
      if (record->offset < segment.begin) bytes = bytes.subspan(segment.begin - record->offset);
      const uint64_t offset = std::max(record->offset, segment.begin);
      comparison.feed_first(bytes.first(std::min<uint64_t>(bytes.size(), segment.end - offset)));
      return true;
    }
    return false;
  }

  pt::CodeImage guest_code() const {
    pt::CodeImage image;
    for (const auto& [start, mapping] : guest_->space().mappings()) {
      if ((mapping.prot & PROT_EXEC) == 0) continue;
      auto bytes = std::make_shared<std::vector<uint8_t>>(mapping.end - mapping.start);
      size_t size = 0;
      while (size < bytes->size() && guest_->space().read(start + size, bytes->data() + size, kPageSize))
        size += kPageSize;
      bytes->resize(size);
      if (bytes->empty()) continue;
      guest_->breakpoints().restore_original(start, std::as_writable_bytes(std::span(*bytes)));
      image.map(start, bytes);
    }
    return image;
  }

  std::string describe(uint64_t number, const pt::FlowComparison& comparison) const {
    std::optional<RecordedCode> code;
    try {
      code.emplace(options_.directory);
      if (number > 0) code->answered(number - 1);
    } catch (const Error&) {
      code.reset();  // a report without names is better than none
    }
    const auto text = [&](uint64_t address) {
      const std::string name = code ? code->symbols().text(address) : "";
      return name.empty() ? fmt::format("{:#x}", address) : fmt::format("{:#x} {}", address, name);
    };
    const std::string problem =
        comparison.problem().empty()
            ? ""
            : fmt::format(" (the traces can't be followed further: {})", comparison.problem());
    const auto& difference = comparison.difference();
    if (!difference)
      return fmt::format("the {} instructions that both traces lead through are the same{}",
                         comparison.instructions(), problem);
    if (difference->branch == 0)
      return fmt::format("the segment starts at {} in the recording and at {} in the replay",
                         text(difference->first), text(difference->second));
    return fmt::format(
        "the first branch that differs: {} at {}, {} in the recording, {} in the replay; {} instructions "
        "before it "
        "are the same",
        difference->conditional ? "the conditional branch" : "the indirect branch", text(difference->branch),
        outcome(*difference, difference->first, text(difference->first)),
        outcome(*difference, difference->second, text(difference->second)), difference->instructions);
  }
};

PtCheck::PtCheck(const Options& options) : impl_(std::make_unique<Impl>(options)) {}
PtCheck::~PtCheck() = default;
const PtCheck::Result& PtCheck::result() const { return impl_->result(); }
void PtCheck::begin() { impl_->begin(); }
void PtCheck::attach(Replay& replay) { impl_->attach(replay); }
void PtCheck::forked() { impl_->follow_vcpu(); }
void PtCheck::detach() noexcept { impl_->detach(); }
void PtCheck::reached(const recording::Event& event, uint64_t number) { impl_->reached(event, number); }
void PtCheck::applied(const recording::Event&, uint64_t) { impl_->applied(); }
std::string PtCheck::explain(const recording::Event&, uint64_t number) { return impl_->explain(number); }

}  // namespace aftercheck
