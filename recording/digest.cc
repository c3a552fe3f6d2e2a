#include "recording/digest.h"

#include <xxhash.h>

#include <algorithm>
#include <iterator>
#include <new>

namespace aftercheck::recording {

uint64_t digest64(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

Digest128 digest128(std::span<const std::byte> bytes) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  Digest128 result;
  static_assert(sizeof canonical.digest == sizeof result);
  std::copy(std::begin(canonical.digest), std::end(canonical.digest), result.begin());
  return result;
}

OutputDigest::OutputDigest() : state_(XXH3_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_));
}

OutputDigest::~OutputDigest() { XXH3_freeState(static_cast<XXH3_state_t*>(state_)); }

void OutputDigest::update(std::span<const std::byte> bytes) {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(state_), bytes.data(), bytes.size());
}

uint64_t OutputDigest::value() const { return XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state_)); }

uint32_t RunningDigest::update(std::span<const uint64_t> words) {
  value_ = XXH3_64bits_withSeed(words.data(), words.size_bytes(), value_);
  return static_cast<uint32_t>(value_);
}

}  // namespace aftercheck::recording
