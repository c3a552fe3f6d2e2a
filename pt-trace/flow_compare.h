// Two traces that should be of the same execution, followed through the code side by side to the first
// instruction that differs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "pt-trace/code_image.h"

namespace aftercheck::pt {

struct FlowDifference {
  uint64_t instructions = 0;       // executed by both before
  uint64_t branch = 0;             // address of the last of them; 0: the very first instructions differ
  bool conditional = false;        // what it is
  uint64_t taken_target = 0;       // conditional: where it goes if taken
  uint64_t first = 0, second = 0;  // the instructions that followed
};

// Memory is bounded by how far one trace is fed ahead of the other. Not thread-safe.
class FlowComparison {
 public:
  // Each trace starts at `start`, with the TIP.PGE there: what stands before it is skipped. The image must
  // outlive the comparison.
  FlowComparison(const CodeImage& image, uint64_t start);
  ~FlowComparison();
  FlowComparison(const FlowComparison&) = delete;
  FlowComparison& operator=(const FlowComparison&) = delete;

  void feed_first(std::span<const uint8_t> bytes);
  void feed_second(std::span<const uint8_t> bytes);
  // No more comes. Instructions behind a trace's last branch are not counted where the other trace has none.
  void finish();

  // What has been found so far; feeding on changes nothing then.
  const std::optional<FlowDifference>& difference() const;
  uint64_t instructions() const;  // that both executed
  // What decoding stumbled over ("no code at 0x1234"), in either trace; empty: nothing.
  const std::string& problem() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace aftercheck::pt
