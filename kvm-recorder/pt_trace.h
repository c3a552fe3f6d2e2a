// The Intel PT trace of a guest while it is recorded, by whatever makes it: the encoder beside the soft vCPU,
// or the processor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "machine/vcpu.h"
#include "pt-trace/perf_capture.h"
#include "recording/event.h"

namespace aftercheck {

class PtTrace {
 public:
  virtual ~PtTrace() = default;
  // The guest is about to run, from `rip` on.
  virtual void resume(uint64_t rip) = 0;
  // The guest is at the exit of this event, the recording's `number`th.
  virtual void exited(const recording::Event& event, uint64_t number) = 0;
  // The guest is gone: everything is written and the trace marked as whole. Throws Error io with what went
  // wrong, now or earlier.
  virtual void finish() = 0;
  // In a process that fork(2) has made, for the copy of its parent's: its files are closed. It must not be
  // used again, nor destroyed, since it has threads that are not there.
  virtual void leave_to_parent() = 0;
  // Not empty: the trace ends early, for this reason.
  virtual std::string error() const = 0;
};

// Whether this process may have the processor trace it: tried with small buffers.
bool processor_traces();

// For a vCPU that tells its control flow, which must outlive the trace. Throws Error io.
std::unique_ptr<PtTrace> trace_by_encoder(Vcpu& vcpu, const std::filesystem::path& directory);

// Traces the calling thread where it executes guest code. `kernel` must outlive the trace. Throws Error
// host_lacks with what the kernel refuses, Error io.
std::unique_ptr<PtTrace> trace_by_processor(pt::PerfKernel& kernel, const pt::PtPmu& pmu,
                                            const std::filesystem::path& directory,
                                            pt::CaptureOptions options = {});

}  // namespace aftercheck
