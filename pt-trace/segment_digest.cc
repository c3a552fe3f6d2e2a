#include "pt-trace/segment_digest.h"

// Inlined: most segments are short, where a call through the library's dispatcher costs as much as the hash.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

namespace aftercheck::pt {

void SegmentDigest::fold_events() {
  const XXH128_hash_t hash = XXH3_128bits(events_, event_capacity * sizeof *events_);
  events_[0] = hash.low64;
  events_[1] = hash.high64;
  event_end_ = chain_words;
  ++event_blocks_;
}

void SegmentDigest::fold_bits() {
  const XXH128_hash_t hash = XXH3_128bits(bits_, bit_capacity);
  // At most 6 whole bytes of the last append lie behind the block.
  const unsigned rest = bit_end_ - bit_capacity;
  std::memmove(bits_ + chain_bytes, bits_ + bit_capacity, 8);
  std::memcpy(bits_, &hash.low64, 8);
  std::memcpy(bits_ + 8, &hash.high64, 8);
  bit_end_ = chain_bytes + rest;
  ++bit_blocks_;
}

StreamDigest SegmentDigest::finish() {
  // One contiguous piece: event block, bit block, then the counts that tell where one ends and the other
  // begins. The digests of earlier blocks are left out where there are none, as in most segments.
  const uint64_t* begin = events_ + (event_blocks_ == 0 ? chain_words : 0);
  const uint64_t bits = bit_count();
  uint64_t* end = events_ + event_end_;
  const unsigned bits_from = bit_blocks_ == 0 ? chain_bytes : 0;
  const unsigned bit_bytes = bit_end_ - bits_from;
  // Whole words, the unused bytes of the last one cleared; the outcomes that don't fill a byte come after.
  const uint8_t* from = bits_ + bits_from;
  for (unsigned left = bit_bytes; left > 0; from += 8) {
    uint64_t word;
    std::memcpy(&word, from, sizeof word);
    if (left < 8) word &= (uint64_t{1} << (8 * left)) - 1;
    *end++ = word;
    left -= left < 8 ? left : 8;
  }
  *end++ = accumulator_;
  *end++ = bits;
  *end++ = event_blocks_ << 32 | event_end_;
  const XXH128_hash_t hash = XXH3_128bits(begin, static_cast<size_t>(end - begin) * sizeof *end);
  return {hash.high64, hash.low64};
}

void SegmentDigest::reset() {
  if (event_blocks_ != 0 || bit_blocks_ != 0) {
    std::memset(events_, 0, chain_bytes);
    std::memset(bits_, 0, chain_bytes);
  }
  accumulator_ = 0;
  pending_ = 0;
  event_end_ = chain_words;
  bit_end_ = chain_bytes;
  bit_blocks_ = 0;
  event_blocks_ = 0;
  targets_ = 0;
}

}  // namespace aftercheck::pt
