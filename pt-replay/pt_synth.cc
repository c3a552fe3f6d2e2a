#include "pt-replay/pt_synth.h"

#include <optional>
#include <system_error>

#include "base/error.h"
#include "recording/pt_log.h"
#include "soft-pt/pt_recorder.h"

namespace aftercheck {
namespace {

namespace fs = std::filesystem;

// Tells the tracer and the log where the guest exits and goes on.
class Synthesizer : public Participant {
 public:
  explicit Synthesizer(SoftPtRecorder& recorder) : recorder_(recorder) {}
  void attach(Replay& replay) override {
    vcpu_ = &replay.guest().own_vcpu();
    if (!vcpu_->set_control_flow(&recorder_.tracer()))
      fail(ErrorKind::usage,
           "a trace is made of the branches that the machine tells, and {} tells none; leave --machine out",
           name(replay.guest().machine().kind()));
  }
  void detach() noexcept override {
    if (vcpu_ != nullptr) vcpu_->set_control_flow(nullptr);
  }
  void reached(const recording::Event& event, uint64_t number) override {
    recorder_.tracer().exited(event);
    recorder_.mark(number);
    if (recorder_.failed()) fail(ErrorKind::io, "{}", recorder_.error());
  }
  void applied(const recording::Event&, uint64_t) override {
    recorder_.tracer().resume(vcpu_->registers().rip);
  }

 private:
  SoftPtRecorder& recorder_;
  Vcpu* vcpu_ = nullptr;
};

// A folder in the recording that goes away again unless it is kept.
class NewFolder {
 public:
  explicit NewFolder(const fs::path& path) : path_(path) {
    std::error_code error;
    fs::remove_all(path_, error);  // what a run that was killed has left
    if (error) fail(ErrorKind::io, "{}: can't be removed: {}", path_.string(), error.message());
  }
  ~NewFolder() {
    std::error_code error;
    if (!kept_) fs::remove_all(path_, error);
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  // Takes the place of `other`, which may be there. Between the two steps there is no trace, never half a
  // one.
  void keep_as(const fs::path& other) {
    std::error_code error;
    fs::remove_all(other, error);
    if (!error) fs::rename(path_, other, error);
    if (error)
      fail(ErrorKind::io, "{}: can't become {}: {}", path_.string(), other.string(), error.message());
    kept_ = true;
  }

 private:
  const fs::path path_;
  bool kept_ = false;
};

}  // namespace

PtSynthResult synthesize_pt(const PtSynthOptions& options) {
  const fs::path place = options.directory / "pt";
  if (!options.replace && fs::exists(place))
    fail(ErrorKind::usage, "{}: the recording has a PT trace already; --force replaces it", place.string());
  SoftPtOptions soft;
  soft.directory = options.directory;
  soft.source = recording::PtSource::synth;
  soft.folder = "pt.new";
  NewFolder folder(options.directory / soft.folder);

  PtSynthResult result;
  {
    SoftPtRecorder recorder(soft);
    Synthesizer synthesizer(recorder);
    ReplayOptions replay_options;
    replay_options.directory = options.directory;
    replay_options.machine = options.machine;
    replay_options.untrusted = options.untrusted;
    replay_options.control_flow = true;
    replay_options.system_call_name = options.system_call_name;
    replay_options.progress = options.progress;
    replay_options.participants = {&synthesizer};
    result.replay = replay(replay_options);
    recorder.finish();
    result.branches = recorder.tracer().totals().branches;
    result.losses = recorder.tracer().totals().losses;
  }
  folder.keep_as(place);
  return result;
}

}  // namespace aftercheck
