// A whole file given to the scanner: for tests with files that nobody vouches for.
#pragma once

#include <cstdint>
#include <span>

namespace aftercheck::test {

// Scans what a loader would map of the file if it believed it, and the file as one range. Throws Error
// internal where the patches found are out of order or out of range. `bytes` are the contents of `fd`.
void scan_whole(std::span<const uint8_t> bytes, int fd);

}  // namespace aftercheck::test
