// The trace of the segment under way, which is needed only if something is wrong with it: in memory while it
// is short, in a temporary file beyond.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/fd.h"

namespace aftercheck {

class SegmentBytes {
 public:
  void append(std::span<const uint8_t> bytes);
  void clear();
  // In pieces, from the first byte on; until `visit` says false.
  void visit(const std::function<bool(std::span<const uint8_t>)>& visit) const;

 private:
  UniqueFd file_;
  uint64_t in_file_ = 0;
  std::vector<uint8_t> memory_;  // what comes behind the file's bytes
};

}  // namespace aftercheck
