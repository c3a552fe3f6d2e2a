// The functions of the library are used in place: this needs its secret (doc/xxhash_spec.md of xxHash has the
// algorithm, XXH3 for inputs longer than 240 bytes).
#define XXH_INLINE_ALL
#include "replay-engine/counter_search.h"

#include <xxhash.h>

#include <bit>
#include <cstring>

#include "recording/digest.h"

namespace aftercheck {
namespace {

constexpr uint64_t kStripe = 64, kBlock = 1024, kLanes = 8;
constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F, kPrime3 = 0x165667B19E3779F9,
                   kPrime4 = 0x85EBCA77C2B2AE63, kPrime5 = 0x27D4EB2F165667C5;
constexpr uint64_t kSmall1 = 0x9E3779B1, kSmall2 = 0x85EBCA77, kSmall3 = 0xC2B2AE3D;
constexpr std::array<uint64_t, kLanes> kStart = {kSmall3, kPrime1, kPrime2, kPrime3,
                                                 kPrime4, kSmall2, kPrime5, kSmall1};
// Offsets in the secret of 192 bytes.
constexpr uint64_t kLastStripe = 121, kScramble = 128, kMergeLow = 11;
constexpr uint64_t kAvalanche = 0x165667919E3779F9;

uint64_t word(const void* bytes, uint64_t offset) {
  uint64_t value = 0;
  std::memcpy(&value, static_cast<const std::byte*>(bytes) + offset, sizeof value);
  return value;
}
uint64_t secret(uint64_t offset) { return word(XXH3_kSecret, offset); }

uint64_t mixed(uint64_t value, uint64_t key) {
  const uint64_t keyed = value ^ key;
  return (keyed & 0xffff'ffff) * (keyed >> 32);
}

uint64_t scrambled(uint64_t accumulator, uint64_t key) {
  return ((accumulator ^ accumulator >> 47) ^ key) * kSmall1;
}

uint64_t folded(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// The last stripe has a key of its own, and no scrambling after it.
uint64_t key_offset(uint64_t stripe_start, uint64_t size) {
  return stripe_start + kStripe == size ? kLastStripe : stripe_start % kBlock / kStripe * 8;
}

}  // namespace

CounterSearch::CounterSearch(std::span<const std::byte> stretch, uint64_t offset, uint64_t step,
                             const recording::Digest128& wanted)
    : stretch_(stretch.begin(), stretch.end()), offset_(offset), step_(step), wanted_(wanted) {
  const uint64_t size = stretch_.size(), lane = offset % kStripe / 8, pair = lane / 2;
  value_ = word(stretch_.data(), offset);
  second_ = lane % 2 != 0;
  key_ = secret(key_offset(offset - offset % kStripe, size) + 8 * lane);
  scramble_key_ = {secret(kScramble + 16 * pair), secret(kScramble + 16 * pair + 8)};
  merge_key_ = {secret(kMergeLow + 16 * pair), secret(kMergeLow + 16 * pair + 8)};
  std::array<uint64_t, kLanes> all = kStart;
  for (uint64_t block = 0; block < size; block += kBlock) {
    std::array<uint64_t, kLanes> sum{};
    for (uint64_t stripe = block; stripe < block + kBlock; stripe += kStripe)
      for (uint64_t i = 0; i < kLanes; ++i) {
        const uint64_t at = stripe + 8 * i, value = word(stretch_.data(), at);
        const bool counts = at == offset;
        sum[i ^ 1] += counts ? 0 : value;
        sum[i] += counts ? 0 : mixed(value, secret(key_offset(stripe, size) + 8 * i));
      }
    for (uint64_t i = 0; i < kLanes; ++i) all[i] += sum[i];
    if (block == offset - offset % kBlock) before_ = {all[2 * pair], all[2 * pair + 1]};
    if (block > offset) blocks_.push_back({sum[2 * pair], sum[2 * pair + 1]});
    if (block + kBlock == size) break;
    for (uint64_t i = 0; i < kLanes; ++i) all[i] = scrambled(all[i], secret(kScramble + 8 * i));
  }
  others_ = size * kPrime1;
  for (uint64_t i = 0; i < kLanes / 2; ++i)
    if (i != pair)
      others_ +=
          folded(all[2 * i] ^ secret(kMergeLow + 16 * i), all[2 * i + 1] ^ secret(kMergeLow + 16 * i + 8));
  for (size_t i = 8; i < wanted.size(); ++i)
    wanted_low_ = wanted_low_ << 8 | wanted[i];  // canonical: high half first
}

bool CounterSearch::fits(uint64_t value) const {
  Pair now = before_;
  (second_ ? now.a : now.b) += value;
  (second_ ? now.b : now.a) += mixed(value, key_);
  for (const Pair& block : blocks_) {
    now.a = scrambled(now.a, scramble_key_.a) + block.a;
    now.b = scrambled(now.b, scramble_key_.b) + block.b;
  }
  uint64_t low = others_ + folded(now.a ^ merge_key_.a, now.b ^ merge_key_.b);
  low = (low ^ low >> 37) * kAvalanche;
  return (low ^ low >> 32) == wanted_low_;
}

std::optional<uint64_t> CounterSearch::next(uint64_t count) {
  for (; count != 0; --count) {
    value_ += step_;
    if (!fits(value_)) continue;
    std::memcpy(&stretch_[offset_], &value_, sizeof value_);
    if (recording::digest128(stretch_) == wanted_) return value_;
  }
  return std::nullopt;
}

}  // namespace aftercheck
