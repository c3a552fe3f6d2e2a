#include "recording/digest.h"

#include <catch2/catch.hpp>
#include <string_view>

#include "recording/store.h"

namespace aftercheck::recording {
namespace {
std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }
}  // namespace

TEST_CASE("digests have the values of XXH3") {
  // Values of the empty input from xxHash's own test suite (cli/xsum_sanity_check.c): the format depends on
  // them.
  REQUIRE(digest64({}) == 0x2d06800538d394c2);
  REQUIRE(to_hex(digest128({})) == "99aa06d3014798d86001c324468d497f");
  REQUIRE(digest64(as_bytes("a")) != digest64(as_bytes("b")));
}

TEST_CASE("an output's digest doesn't depend on how it is cut") {
  const std::string text(10000, 'x');
  OutputDigest digest;
  REQUIRE(digest.value() == digest64({}));
  for (size_t at = 0; at < text.size(); at += 333)
    digest.update(as_bytes(text).subspan(at, std::min<size_t>(333, text.size() - at)));
  REQUIRE(digest.value() == digest64(as_bytes(text)));
}

TEST_CASE("the digest of a preempted thread's event may have 16 bits") {
  Event event;
  event.kind = EventKind::preempted;
  event.digest = 0x5678;
  CHECK(has_digest(event, 0x12345678));
  CHECK(has_digest(event, 0x5678));
  CHECK_FALSE(has_digest(event, 0x12345679));
  event.digest = 0x12345678;
  CHECK(has_digest(event, 0x12345678));
  CHECK_FALSE(has_digest(event, 0x5678));
  event.kind = EventKind::syscall;
  event.digest = 0x5678;
  CHECK_FALSE(has_digest(event, 0x12345678));
}

TEST_CASE("the running digest remembers every exit") {
  const uint64_t first[] = {1, 2, 3}, other[] = {1, 2, 4}, second[] = {5};
  RunningDigest a, b, c;
  const uint32_t low = a.update(first);
  REQUIRE(low == static_cast<uint32_t>(a.value()));
  REQUIRE(b.update(first) == low);
  REQUIRE(c.update(other) != low);
  REQUIRE(a.update(second) == b.update(second));
  REQUIRE(a.value() == b.value());
  c.update(second);
  REQUIRE(c.value() != a.value());
}

}  // namespace aftercheck::recording
