#include "kvm-recorder/pt_trace.h"

#include <cpuid.h>

#include <atomic>

#include "base/error.h"
#include "machine/address_space.h"
#include "pt-trace/aux_drain.h"
#include "soft-pt/pt_recorder.h"

namespace aftercheck {
namespace {

class EncoderTrace : public PtTrace {
 public:
  EncoderTrace(Vcpu& vcpu, const std::filesystem::path& directory)
      : vcpu_(vcpu), recorder_(options(directory)) {
    if (!vcpu_.set_control_flow(&recorder_.tracer()))
      fail(ErrorKind::internal, "this vCPU does not tell its control flow");
  }
  ~EncoderTrace() override { vcpu_.set_control_flow(nullptr); }

  void resume(uint64_t rip) override { recorder_.tracer().resume(rip); }
  void exited(const recording::Event& event, uint64_t number) override {
    recorder_.tracer().exited(event);
    recorder_.mark(number);
  }
  void finish() override { recorder_.finish(); }
  void leave_to_parent() override { recorder_.leave_to_parent(); }
  std::string error() const override { return recorder_.failed() ? recorder_.error() : ""; }

 private:
  Vcpu& vcpu_;
  SoftPtRecorder recorder_;

  static SoftPtOptions options(const std::filesystem::path& directory) {
    SoftPtOptions options;
    options.directory = directory;
    return options;
  }
};

// CPUID leaf 1, EAX (SDM vol. 2A, CPUID, figure 3-6).
void identify_processor(recording::PtFormat& format) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return;
  const unsigned family = eax >> 8 & 0xf;
  format.family = family == 0xf ? family + (eax >> 20 & 0xff) : family;
  format.model = (eax >> 4 & 0xf) | (family == 6 || family == 0xf ? (eax >> 12 & 0xf0) : 0);
  format.stepping = eax & 0xf;
}

recording::PtFormat format_of(const pt::PtPmu& pmu) {
  recording::PtFormat format;
  format.source = recording::PtSource::perf;
  identify_processor(format);
  format.capabilities = fmt::format("config={:#x}", pmu.attributes().config);
  for (const auto& [name, value] : pmu.caps) format.capabilities += fmt::format(" {}={:#x}", name, value);
  return format;
}

pt::CaptureOptions with_windows(pt::CaptureOptions options) {
  if (options.ranges.empty())
    for (const Range& window : {kLowWindow, kMainWindow})
      options.ranges.push_back({window.start, window.size()});
  return options;
}

class ProcessorTrace : public PtTrace {
 public:
  ProcessorTrace(pt::PerfKernel& kernel, const pt::PtPmu& pmu, const std::filesystem::path& directory,
                 const pt::CaptureOptions& options)
      : capture_(kernel, pmu, with_windows(options)),
        writer_(directory, 0, format_of(pmu)),
        sink_(writer_),
        drain_(capture_.rings(), sink_, {.poll_fd = capture_.fd(), .stopped = [this] { resume_tracing(); }}) {
    capture_.enable();
  }

  void resume(uint64_t) override {}
  // No mark: the processor's bytes reach the AUX area later than they are made, so where the area ends now
  // says nothing of this exit. The trace's own exits are counted instead.
  void exited(const recording::Event&, uint64_t) override {}
  void finish() override {
    finishing_ = true;
    capture_.disable();  // makes the processor write out what it has buffered
    drain_.finish();
    if (const std::string why = error(); !why.empty()) fail(ErrorKind::io, "{}", why);
    writer_.finish();
  }
  void leave_to_parent() override {
    capture_.leave_to_parent();
    writer_.leave_to_parent();
  }
  std::string error() const override { return drain_.failed() ? drain_.error() : ""; }

 private:
  pt::PerfCapture capture_;
  recording::PtLogWriter writer_;
  PtLogSink sink_;
  std::atomic<bool> finishing_ = false;
  pt::AuxDrain drain_;

  void resume_tracing() {
    if (!finishing_) capture_.enable();
  }
};

}  // namespace

bool processor_traces() try {
  const std::optional<pt::PtPmu> pmu = pt::PtPmu::read();
  if (!pmu) return false;
  pt::CaptureOptions options;
  options.aux_bytes = options.least_aux_bytes;
  options.data_bytes = options.least_data_bytes;
  const pt::PerfCapture capture(pt::host_perf_kernel(), *pmu, with_windows(std::move(options)));
  return true;
} catch (const Error&) {
  return false;
}

std::unique_ptr<PtTrace> trace_by_encoder(Vcpu& vcpu, const std::filesystem::path& directory) {
  return std::make_unique<EncoderTrace>(vcpu, directory);
}

std::unique_ptr<PtTrace> trace_by_processor(pt::PerfKernel& kernel, const pt::PtPmu& pmu,
                                            const std::filesystem::path& directory,
                                            pt::CaptureOptions options) {
  return std::make_unique<ProcessorTrace>(kernel, pmu, directory, options);
}

}  // namespace aftercheck
