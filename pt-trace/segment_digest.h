// Digest of one segment of the branch stream. Internal to pt-trace.
#pragma once

#include <cstdint>
#include <cstring>

#include "pt-trace/branch_stream.h"

namespace aftercheck::pt {

// What stands in the event sequence besides plain indirect targets. The kind goes into the top byte of a
// word, which no canonical address (57 or fewer significant bits) can have; the low bits hold how many
// conditional outcomes came before. Plain targets carry no such position: the processor may defer TIP packets
// behind later outcomes (manual: "Deferred TIPs"), and the code determines their order anyway.
enum class StreamEvent : uint8_t {
  enter = 1,         // operand: address; the execution mode in bits 55:48 of the header
  exit_sync = 2,     // none
  exit_async = 3,    // from
  async_branch = 4,  // from, to
  mode = 5,          // new mode
  transaction = 6,   // flags, address
  ptwrite = 7,       // payload
  lone_fup = 8,      // address
  hidden_target = 9  // TIP without an address
};

// Conditional outcomes and events are two separate sequences, each hashed in blocks at fixed counts, so that
// the result depends only on the sequences.
class SegmentDigest {
 public:
  SegmentDigest() = default;

  // `count` outcomes, the oldest in the highest bit, nothing above them; count <= 48. Free of branches that
  // depend on how full things are: whole bytes go to the buffer every time.
  void append_bits(uint64_t bits, unsigned count) {
    const unsigned filled = pending_ + count;  // at most 55
    // Two shifts, because one by 64 (nothing pending, nothing new) is not defined.
    accumulator_ |= bits << (63 - filled) << 1;
    const uint64_t stored = __builtin_bswap64(accumulator_);
    std::memcpy(bits_ + bit_end_, &stored, sizeof stored);
    bit_end_ += filled / 8;
    accumulator_ <<= filled & ~7u;
    pending_ = filled & 7;
    if (bit_end_ >= bit_capacity) [[unlikely]]
      fold_bits();
  }

  void append_target(uint64_t address) {
    ++targets_;
    push_event_word(address);
  }

  void append_event(StreamEvent kind) {
    push_event_word(uint64_t{static_cast<uint8_t>(kind)} << 56 | bit_count());
  }
  // The first event of a segment; mode is ExecMode.
  void append_entry(uint64_t address, uint8_t mode) {
    push_event_word(uint64_t{static_cast<uint8_t>(StreamEvent::enter)} << 56 | uint64_t{mode} << 48 |
                    bit_count());
    push_event_word(address);
  }
  void append_event(StreamEvent kind, uint64_t operand) {
    append_event(kind);
    push_event_word(operand);
  }
  void append_event(StreamEvent kind, uint64_t operand1, uint64_t operand2) {
    append_event(kind, operand1);
    push_event_word(operand2);
  }

  uint64_t bit_count() const {
    return bit_blocks_ * bit_block_bits + 8 * (bit_end_ - chain_bytes) + pending_;
  }
  uint64_t target_count() const { return targets_; }

  // The digest of everything since reset(); consumes it.
  StreamDigest finish();
  void reset();

 private:
  static constexpr unsigned chain_words = 2;  // the digest of the blocks before stands in front of each block
  static constexpr unsigned event_capacity = 1024 + chain_words;
  static constexpr unsigned chain_bytes = chain_words * 8;
  static constexpr unsigned bit_capacity = 2048 + chain_bytes;
  static constexpr uint64_t bit_block_bits = 2048 * 8;
  static constexpr unsigned tail_words = 6;

  void push_event_word(uint64_t word) {
    if (event_end_ == event_capacity) fold_events();
    events_[event_end_++] = word;
  }
  void fold_events();
  void fold_bits();

  uint64_t accumulator_ = 0;  // outcomes that don't fill a byte yet, from the highest bit
  unsigned pending_ = 0;      // how many
  unsigned event_end_ = chain_words;
  unsigned bit_end_ = chain_bytes;
  uint64_t bit_blocks_ = 0;
  uint64_t event_blocks_ = 0;
  uint64_t targets_ = 0;
  uint64_t events_[event_capacity + bit_capacity / 8 + tail_words] = {};
  uint8_t bits_[bit_capacity + 16] = {};
};

}  // namespace aftercheck::pt
