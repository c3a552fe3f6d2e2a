// The real traces of ../shared/pt-data (or $AFTERCHECK_PT_DATA), which are not part of the repository.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace aftercheck::pt::test {

// Folder of the traces; nothing (after printing why, in the words ctest looks for) when it is missing.
std::optional<std::string> data_folder();

// Whole file; Error io when it can't be read.
std::vector<uint8_t> read_file(const std::string& path);

// Reproducible pseudo-random numbers (splitmix64), so that a failure can be repeated from its seed.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // Uniform enough for tests; `bound` > 0.
  uint64_t below(uint64_t bound) { return next() % bound; }

 private:
  uint64_t state_;
};

}  // namespace aftercheck::pt::test

// Ends the test case, counted as skipped, when there is no data folder; otherwise `folder` names it.
#define PT_DATA_OR_SKIP(folder)                                    \
  const auto folder##_found = aftercheck::pt::test::data_folder(); \
  if (!folder##_found) return;                                     \
  const std::string& folder = *folder##_found  // NOLINT(bugprone-macro-parentheses): it declares
