// A digest of a sequence of executed instruction addresses that does not depend on how the sequence is cut
// into blocks.
#pragma once

#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

namespace aftercheck::test {

// The addresses of some instructions in a row, ready to be appended.
struct InstructionRun {
  uint64_t hash = 0, power = 1, count = 0;
  void add(uint64_t address) {
    hash = hash * kFactor + mix(address);
    power *= kFactor;
    ++count;
  }

 private:
  static constexpr uint64_t kFactor = 0x9e3779b97f4a7c15;
  static constexpr uint64_t mix(uint64_t value) {
    value = (value ^ value >> 32) * 0xd6e8feb86659fd93;
    return value ^ value >> 29;
  }
};

// A polynomial in an odd factor modulo 2^64, so that runs can be appended whole.
struct InstructionDigest {
  uint64_t hash = 0, count = 0;
  void append(const InstructionRun& run) {
    hash = hash * run.power + run.hash;
    count += run.count;
  }
  bool operator==(const InstructionDigest&) const = default;
};

// The runs of straight code, decoded once. `read` gives up to 15 bytes of code.
class StraightRuns {
 public:
  using Read = std::function<size_t(uint64_t address, uint8_t* bytes, size_t size)>;
  explicit StraightRuns(Read read) : read_(std::move(read)) {}
  // Instructions from `start` up to, not including, `end`.
  const InstructionRun& until(uint64_t start, uint64_t end);
  void clear() { runs_.clear(); }

 private:
  struct Hash {
    size_t operator()(const std::pair<uint64_t, uint64_t>& key) const {
      return key.first * 0x9e3779b97f4a7c15 ^ key.second;
    }
  };
  Read read_;
  std::unordered_map<std::pair<uint64_t, uint64_t>, InstructionRun, Hash> runs_;
};

}  // namespace aftercheck::test
