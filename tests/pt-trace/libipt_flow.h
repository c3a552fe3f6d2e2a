// libipt as the judge of flow decoding: the same trace, image and processor.
#pragma once

#include <intel-pt.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pt-trace/code_image.h"
#include "pt-trace/flow_decoder.h"

namespace aftercheck::pt::test {

// A piece of code in a file.
struct CodeFile {
  std::string path;
  uint64_t offset = 0;
  uint64_t size = 0;
  uint64_t address = 0;
};

// One folder of pt-data.
struct RealTrace {
  std::string name;
  std::vector<uint8_t> bytes;
  std::vector<CodeFile> code;
  pt_cpu cpu{};
  bool return_compression = false;
  std::vector<AddressRange> filter{};  // one at most
  CodeImage image() const;
};
RealTrace load_real_trace(const std::string& folder, const std::string& name);

// Addresses in ips.gz.
std::vector<uint64_t> expected_ips(const std::string& path);

// libipt's view of a trace. Errors are counted; decoding goes on at the next PSB.
struct LibiptFlow {
  std::vector<pt_block> blocks;
  uint64_t instructions = 0;
  std::vector<int> errors;
};
// Keeps the image between runs, so that a benchmark measures decoding alone.
class LibiptDecoder {
 public:
  explicit LibiptDecoder(const RealTrace& trace);
  ~LibiptDecoder();
  // Every block, to `visit`; returns the errors.
  std::vector<int> blocks(std::span<const uint8_t> bytes, const std::function<void(const pt_block&)>& visit);
  // Every block, only counted: what a benchmark wants.
  uint64_t count_blocks(std::span<const uint8_t> bytes);

 private:
  pt_config config(std::span<const uint8_t> bytes) const;
  pt_cpu cpu_;
  std::vector<AddressRange> filter_;
  pt_image_section_cache* cache_;
  pt_image* image_;
};

// The processors of pt-data and what is known of them (its README).
FlowOptions options_for(const RealTrace& trace);

}  // namespace aftercheck::pt::test
