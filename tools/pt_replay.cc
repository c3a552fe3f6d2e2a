#include "tools/pt_replay.h"

#include <optional>

#include "base/error.h"
#include "pt-replay/written_code.h"
#include "replay-engine/replay.h"
#include "system-calls/system_call_names.h"

namespace aftercheck::tools {
namespace {

// Reads the trace of each segment when the replay has come to its end.
class TraceInStep : public Participant {
 public:
  TraceInStep(recording::PtLogReader& reader, PtSink& sink, RecordedCode& code,
              const std::function<bool()>& enough)
      : reader_(reader), sink_(sink), code_(code), enough_(enough) {}

  void attach(Replay& replay) override {
    replay_ = &replay;
    written_.emplace(code_.image(), replay.guest());
  }
  void detach() noexcept override { written_.reset(); }
  void reached(const recording::Event&, uint64_t number) override {
    written_->update();
    pass_until(number);
    if (enough_()) replay_->stop(*this);
  }
  // What comes behind the last event.
  void finished(const ReplayResult&) override { pass_until(UINT64_MAX); }
  void applied(const recording::Event& event, uint64_t) override { written_->answered(event); }

 private:
  void pass_until(uint64_t event) {
    while (next_ != nullptr) {
      const bool mark = next_->kind == recording::PtRecord::Kind::mark;
      if (mark && next_->event > event) return;
      const bool last = mark && next_->event == event;
      pass_on(*next_, sink_);
      next_ = reader_.next();
      if (last) return;
    }
  }

  recording::PtLogReader& reader_;
  PtSink& sink_;
  RecordedCode& code_;
  const std::function<bool()>& enough_;
  Replay* replay_ = nullptr;
  std::optional<WrittenCode> written_;
  const recording::PtRecord* next_ = reader_.next();
};

}  // namespace

std::string read_in_replay(const PtSource& source, size_t stream, PtSink& sink, PtCode& code,
                           MachineChoice machine, bool untrusted, const std::function<bool()>& enough) {
  const uint32_t thread = recording::pt_threads(source.name()).at(stream);
  recording::PtLogReader reader(source.name(), thread);
  if (reader.format().source == recording::PtSource::perf)
    fail(ErrorKind::usage,
         "{}: a processor's trace does not say where events are, so it can't be read in step with a replay; "
         "leave --replay out, or make another trace with `aftercheck pt synth --force`",
         source.name());
  TraceInStep in_step(reader, sink, *code.recorded(), enough);
  ReplayOptions options;
  options.directory = source.name();
  options.machine = machine;
  options.untrusted = untrusted;
  options.system_call_name = system_call_name;
  options.participants = {&in_step};
  if (Replay(options).advance().why == Stop::Why::participant) return {};
  std::string why;
  return reader.truncated(&why) ? why : "";
}

}  // namespace aftercheck::tools
