// Function ranges from .eh_frame, which even stripped programs keep for unwinding (LSB Core 5.0,
// chapter 10.6).
#pragma once

#include <cstdint>
#include <vector>

#include "code-scan/elf_file.h"

namespace aftercheck {

// What one FDE says of a function.
struct FrameRange {
  uint64_t start = 0, end = 0;  // virtual addresses in the file's own terms, start < end
  bool has_lsda = false;        // it has exception landing pads, which nothing branches to
};

// All FDEs of the file that can be read, in no particular order. Damaged records are skipped.
std::vector<FrameRange> frame_ranges(const ElfFile& file);

}  // namespace aftercheck
