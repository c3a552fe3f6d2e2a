#include "replay-engine/counter_search.h"

#include <catch2/catch.hpp>
#include <cstring>

#include "recording/digest.h"

namespace aftercheck {
namespace {

TEST_CASE("counter search: finds the value of a word anywhere in a stretch, and no other") {
  const uint64_t size = GENERATE(1024, 2048, 4096, 20480);
  std::vector<std::byte> now(size);
  for (size_t i = 0; i < size; ++i) now[i] = std::byte(i * 7 + i / 256);
  for (uint64_t offset = 0; offset < size; offset += 8 * 13) {
    std::vector<std::byte> then = now;
    uint64_t value = 0;
    std::memcpy(&value, &then[offset], sizeof value);
    value += 100 * 3;
    std::memcpy(&then[offset], &value, sizeof value);
    CounterSearch search(now, offset, 3, recording::digest128(then));
    CHECK_FALSE(search.next(99));
    CHECK(search.next(1) == value);
    CounterSearch down(then, offset, uint64_t{0} - 3, recording::digest128(now));
    CHECK(down.next(1000) == value - 300);
    then[(offset + 8) % size] ^= std::byte{1};
    CounterSearch none(now, offset, 3, recording::digest128(then));
    CHECK_FALSE(none.next(1000));
  }
}

}  // namespace
}  // namespace aftercheck
