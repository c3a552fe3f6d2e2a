// A sink that turns blocks into the addresses of their instructions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "pt-trace/flow_decoder.h"

namespace aftercheck::pt::test {

class Collector : public FlowSink {
 public:
  void on_blocks(std::span<const BlockId> blocks) override {
    for (const BlockId id : blocks) {
      if (id >= expanded_.size()) expanded_.resize(id + 1);
      auto& ips_of_block = expanded_[id];
      if (ips_of_block.empty())
        decoder->for_each_instruction(id, [&](uint64_t ip, uint8_t) { ips_of_block.push_back(ip); });
      ips.insert(ips.end(), ips_of_block.begin(), ips_of_block.end());
      ++block_count;
    }
  }
  void on_event(const FlowEvent& event) override {
    if (event.kind == FlowEventKind::error) errors.push_back(event);
    if (event.kind == FlowEventKind::overflow) ++overflows;
  }
  FlowDecoder* decoder = nullptr;
  std::vector<uint64_t> ips;
  std::vector<FlowEvent> errors;
  uint64_t block_count = 0;
  uint64_t overflows = 0;

 private:
  std::vector<std::vector<uint64_t>> expanded_;
};

struct Decoded {
  FlowTotals totals;
  size_t blocks = 0;  // that the decoder knows
};

// Decodes a whole trace, given in pieces of that size, into `collector`.
inline Decoded decode(const CodeImage& image, Collector& collector, std::span<const uint8_t> trace,
                      const FlowOptions& options = {}, size_t piece = SIZE_MAX) {
  FlowDecoder decoder(image, collector, options);
  collector.decoder = &decoder;
  while (!trace.empty()) {
    const size_t size = std::min(piece, trace.size());
    decoder.feed(trace.first(size));
    trace = trace.subspan(size);
  }
  decoder.finish();
  collector.decoder = nullptr;
  return {decoder.totals(), decoder.block_count()};
}

}  // namespace aftercheck::pt::test
