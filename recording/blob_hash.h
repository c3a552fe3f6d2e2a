// The hash that names a blob.
#pragma once

#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <span>

#include "recording/event.h"

namespace aftercheck::recording {

// Running XXH3-128 of a blob's bytes.
class BlobHash {
 public:
  BlobHash() : state_(XXH3_createState(), XXH3_freeState) {
    if (state_ == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(state_.get());
  }
  void update(std::span<const std::byte> bytes) {
    XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
  }
  Digest128 value() const {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
    Digest128 digest;
    std::copy(std::begin(canonical.digest), std::end(canonical.digest), digest.begin());
    return digest;
  }

 private:
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state_;
};

}  // namespace aftercheck::recording
