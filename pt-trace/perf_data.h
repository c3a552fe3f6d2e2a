// Reads what `perf record -e intel_pt//` wrote (tools/perf/Documentation/perf.data-file-format.txt of the
// kernel), as a file or as a pipe's stream saved to one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pt-trace/flow_decoder.h"

namespace aftercheck::pt {

// A mapping of the traced system, from PERF_RECORD_MMAP and MMAP2; kernel ones have pid -1.
struct PerfMapping {
  int32_t pid = 0;
  int32_t tid = 0;
  uint64_t address = 0;
  uint64_t size = 0;
  uint64_t file_offset = 0;
  bool executable = false;
  std::string path;  // "[vdso]", "[kernel.kallsyms]_text", "//anon", or a file
};

// A piece of AUX data of one stream; pieces are in order.
struct PerfAuxPiece {
  uint64_t offset = 0;  // in the stream
  std::span<const uint8_t> bytes;
};

// The AUX data of one buffer: of one CPU, or of one thread.
struct PerfAuxStream {
  uint32_t index = 0;
  int32_t cpu = -1;  // -1: any, the stream follows a thread
  int32_t tid = -1;  // -1: the stream follows a CPU
  std::vector<PerfAuxPiece> pieces;
  uint64_t size() const;
};

// PERF_RECORD_AUX, as far as it tells of trouble. Streams with such records have gaps.
struct PerfAuxTrouble {
  uint64_t aux_offset = 0;
  uint64_t aux_size = 0;
  bool truncated = false;  // PERF_AUX_FLAG_TRUNCATED: the ring was full
  bool partial = false;    // PERF_AUX_FLAG_PARTIAL: gaps
  bool collision = false;  // PERF_AUX_FLAG_COLLISION: another user of the PMU
};

struct PerfItraceInfo {
  bool present = false;
  uint32_t pmu_type = 0;
  uint64_t config = 0;             // of the intel_pt event, IA32_RTIT_CTL bits
  bool return_compression = true;  // no "noretcomp" in the event
  bool tsc = false, mtc = false, cyc = false;
  bool per_cpu = false;
  bool snapshot = false;
  uint32_t tsc_ctc_numerator = 0;  // CPUID leaf 15h
  uint32_t tsc_ctc_denominator = 0;
  std::string filter;  // address filters as given to perf
};

class PerfData {
 public:
  // Maps the file. Throws Error io when it can't be read; otherwise as parse().
  static PerfData open(const std::string& path);
  // From memory that outlives the result; `name` is for messages. Throws Error bad_input, naming the offset,
  // when the bytes are not a perf.data file or break off in a way that leaves nothing to use; Error
  // unsupported for other byte orders and compressed records.
  static PerfData parse(std::span<const uint8_t> bytes, const std::string& name);

  const std::vector<PerfAuxStream>& streams() const { return streams_; }
  const std::vector<PerfMapping>& mappings() const { return mappings_; }
  const std::vector<PerfAuxTrouble>& troubles() const { return troubles_; }
  const PerfItraceInfo& itrace() const { return itrace_; }
  uint64_t lost_records() const { return lost_; }
  // Processor, from the header's CPUID string; 0 when it is not there.
  unsigned family() const { return family_; }
  unsigned model() const { return model_; }
  // The file ends inside a record: perf was killed. What came before is here.
  bool cut_off() const { return cut_off_; }
  FlowOptions flow_options() const;

 private:
  friend class PerfReader;
  std::shared_ptr<const void> owner_;
  std::vector<PerfAuxStream> streams_;
  std::vector<PerfMapping> mappings_;
  std::vector<PerfAuxTrouble> troubles_;
  PerfItraceInfo itrace_;
  uint64_t lost_ = 0;
  unsigned family_ = 0;
  unsigned model_ = 0;
  bool cut_off_ = false;
};

}  // namespace aftercheck::pt
