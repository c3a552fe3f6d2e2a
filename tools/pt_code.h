// The code that a trace ran through: from the recording, from the files that perf.data names, or from those
// that the user names.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pt-replay/recorded_code.h"
#include "pt-trace/flow_decoder.h"
#include "symbols/symbols.h"
#include "tools/command.h"
#include "tools/pt_source.h"

namespace aftercheck::tools {

struct PtCodeOptions {
  std::vector<std::string> images;   // FILE, FILE@ADDRESS or FILE@ADDRESS:OFFSET:SIZE
  std::vector<std::string> pages;    // PREFIX of PREFIX.addr and PREFIX.dump
  std::string cpu;                   // FAMILY/MODEL
  std::vector<std::string> filters;  // FIRST-LAST
  unsigned bits = 64;                // of the code, until the trace says
  bool no_return_compression = false;
  int32_t pid = 0;    // of perf.data; 0: whose trace it is
  std::string symfs;  // of perf.data: where the files are now; "": where they were
};

// --cpu.
void add_pt_cpu_option(CLI::App& app, std::string& cpu);
// Of the processor that --cpu names; what the source knows of it where that is "". Throws Error(usage).
pt::Errata pt_errata(const std::string& cpu, const PtSource& source, size_t stream);

// --image, --pages, --cpu, --filter, --bits, --noretcomp, --pid, --symfs.
void add_pt_code_options(CLI::App& app, PtCodeOptions& options);

// The code of one stream. Not thread-safe.
class PtCode {
 public:
  // Throws Error.
  PtCode(const PtCodeOptions& options, const PtSource& source, size_t stream);

  // What is missing but can be done without; each a sentence.
  const std::vector<std::string>& warnings() const { return warnings_; }

  const pt::CodeImage& image() const { return recorded_ ? recorded_->image() : image_; }
  const symbols::Symbols& symbols() const { return recorded_ ? recorded_->symbols() : symbols_; }
  const pt::FlowOptions& flow_options() const { return flow_options_; }
  // Null, or of a recording.
  RecordedCode* recorded() { return recorded_.get(); }
  // Of recordings: this event was answered. True when the program was replaced.
  bool answered(uint64_t event) { return recorded_ != nullptr && recorded_->answered(event); }

 private:
  void add_image(const std::string& text);
  void add_elf(const std::string& path);
  void add_pages(const std::string& prefix);
  void add_perf_mappings(const pt::PerfData& perf, size_t stream, const PtCodeOptions& options);
  void add_perf_filters(const std::string& text, const std::vector<pt::PerfMapping>& mappings, int32_t pid);
  void add(const std::shared_ptr<symbols::Object>& object, uint64_t address, const std::string& path,
           uint64_t offset, uint64_t size);

  pt::CodeImage image_;
  symbols::Symbols symbols_;
  pt::FlowOptions flow_options_;
  std::unique_ptr<RecordedCode> recorded_;
  std::vector<std::string> warnings_;
};

}  // namespace aftercheck::tools
