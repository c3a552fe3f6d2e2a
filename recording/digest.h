// Digests that record and replay compare.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "recording/event.h"

namespace aftercheck::recording {

// XXH3 (xxhash.h): not cryptographic. It finds accidents; it does not defend against a forged recording.
uint64_t digest64(std::span<const std::byte> bytes);
Digest128 digest128(std::span<const std::byte> bytes);

// Incremental XXH3-64 over several pieces; equals digest64 of their concatenation.
class OutputDigest {
 public:
  OutputDigest();
  ~OutputDigest();
  OutputDigest(const OutputDigest&) = delete;
  OutputDigest& operator=(const OutputDigest&) = delete;
  void update(std::span<const std::byte> bytes);
  uint64_t value() const;

 private:
  void* state_;  // XXH3_state_t
};

// The running digest of registers at exits: each step hashes the value before and the words given, so two
// runs agree at an exit only if they agreed at all exits before.
class RunningDigest {
 public:
  // `words` is whatever the exit is identified by (canonical registers); returns the low 32 bits of the new
  // value.
  uint32_t update(std::span<const uint64_t> words);
  // What update() would return, without doing it.
  uint32_t peek(std::span<const uint64_t> words) const { return RunningDigest(*this).update(words); }
  uint64_t value() const { return value_; }
  // The digest whose value() this is.
  static RunningDigest from(uint64_t value) {
    RunningDigest digest;
    digest.value_ = value;
    return digest;
  }

 private:
  uint64_t value_ = 0;
};

// Where a count tells the instant the log has these bits of the running digest only, which goes on with all
// of them. Recordings up to format version 2 have 32.
constexpr uint32_t kShortDigest = 0xffff;

// Is `digest` that of the event?
inline bool has_digest(const Event& event, uint32_t digest) {
  const bool is_short = event.kind == EventKind::preempted && event.digest <= kShortDigest;
  return (is_short ? digest & kShortDigest : digest) == event.digest;
}

}  // namespace aftercheck::recording
