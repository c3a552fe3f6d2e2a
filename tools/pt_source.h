// What the `pt` commands read: AUX data in order, wherever it comes from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pt-trace/flow_decoder.h"
#include "pt-trace/perf_data.h"
#include "recording/pt_log.h"
#include "tools/console.h"

namespace aftercheck::tools {

// One buffer's AUX data: of a thread or a CPU.
struct PtStream {
  std::string name;   // "thread 0"; for messages and JSON
  uint64_t size = 0;  // bytes; 0 where that is not known (a pipe)
};

// Receives one stream. Bytes are contiguous except where lost() comes between.
class PtSink {
 public:
  virtual ~PtSink() = default;
  virtual void bytes(uint64_t offset, std::span<const uint8_t> bytes) = 0;
  // AUX data is missing here and goes on at `resume`; `why` says what the kernel or the file says of it.
  virtual void lost(uint64_t offset, uint64_t resume, const std::string& why) = 0;
  // Of recordings: what came so far was made before this event was answered, what follows after it.
  virtual void mark(uint64_t offset, uint64_t event) { static_cast<void>(offset), static_cast<void>(event); }
};

class PtSource {
 public:
  virtual ~PtSource() = default;
  const std::string& name() const { return name_; }
  const std::vector<PtStream>& streams() const { return streams_; }
  // What the source knows of the processor and the settings of a stream's trace.
  virtual pt::FlowOptions flow_options(size_t stream) const {
    static_cast<void>(stream);
    return {};
  }
  // Null, or what this is.
  virtual const pt::PerfData* perf_data() const { return nullptr; }
  virtual bool is_recording() const { return false; }
  // The stream's sink is told of events: a recording's, unless a processor made the trace.
  virtual bool has_marks(size_t stream) const {
    static_cast<void>(stream);
    return false;
  }
  // Hands over the whole stream, in pieces. Throws Error.
  virtual void read(size_t stream, PtSink& sink) = 0;
  // Things worth a warning, such as records that were lost; each a sentence.
  virtual std::vector<std::string> warnings() const { return {}; }

 protected:
  explicit PtSource(std::string name) : name_(std::move(name)) {}
  std::string name_;
  std::vector<PtStream> streams_;
};

// One entry of a recording's trace.
void pass_on(const recording::PtRecord& record, PtSink& sink);

// A recording (a directory), a perf.data file (by its first bytes), or raw AUX data. "-" is standard input,
// raw. Throws Error.
std::unique_ptr<PtSource> open_pt_source(const std::string& path);

// Shows progress while it passes a stream on, and looks whether it is a trace at all.
class PtProgress : public PtSink {
 public:
  PtProgress(PtSink& sink, const PtStream& stream, Console& console)
      : sink_(sink), stream_(stream), console_(console) {}
  void bytes(uint64_t offset, std::span<const uint8_t> bytes) override;
  void lost(uint64_t offset, uint64_t resume, const std::string& why) override;
  void mark(uint64_t offset, uint64_t event) override { sink_.mark(offset, event); }
  // Bytes came, but no PSB among them, so none of them could be read.
  bool without_psb() const { return done_ != 0 && !psb_seen_; }

 private:
  PtSink& sink_;
  const PtStream& stream_;
  Console& console_;
  uint64_t done_ = 0;
  bool psb_seen_ = false;
  std::vector<uint8_t> tail_;  // until then: the last bytes, where a PSB may have begun
};

// Throws Error(bad_input) when there are such streams: their names, as a list of words.
void require_psb(const PtSource& source, const std::vector<std::string>& streams_without_psb);

}  // namespace aftercheck::tools
