// Which value of one counting word gives a stretch of memory its recorded digest?
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "recording/event.h"

namespace aftercheck {

// A loop may keep its state in one word of memory and come by an instant's address many millions of times.
// Where the recording has nothing but a digest of the whole stretch, hashing it at each arrival takes
// minutes. XXH3 mixes a word into two of its eight accumulators only, so the digests of a stretch in which
// one word counts on take some ten ns each. What is found is no guess: the stretch with that value *has* the
// digest.
class CounterSearch {
 public:
  static constexpr uint64_t kUnit = 1024;
  // Of stretches of whole KiB, from 1 KiB on, whose word at `offset` (a multiple of 8) changes by `step`
  // again and again.
  CounterSearch(std::span<const std::byte> stretch, uint64_t offset, uint64_t step,
                const recording::Digest128& wanted);

  // Of one value, in KiB's digests.
  uint64_t cost() const { return blocks_.size() + 1; }
  // Tries so many further values; the one that fits.
  std::optional<uint64_t> next(uint64_t count);

 private:
  struct Pair {
    uint64_t a = 0, b = 0;  // accumulators 2n and 2n + 1
  };

  std::vector<std::byte> stretch_;  // with the value tried last
  const uint64_t offset_, step_;
  const recording::Digest128 wanted_;
  uint64_t value_ = 0;
  bool second_ = false;       // the word counts in accumulator 2n + 1
  uint64_t key_ = 0;          // of the secret, for the word
  Pair before_;               // all before and beside the word, in its block
  std::vector<Pair> blocks_;  // what the blocks after it add
  Pair scramble_key_, merge_key_;
  uint64_t others_ = 0, wanted_low_ = 0;

  bool fits(uint64_t value) const;
};

}  // namespace aftercheck
