// Packets from pieces of any size are those of the scanner that has all bytes at once.
#include "pt-trace/packet_stream.h"

#include <catch2/catch.hpp>

#include "executions.h"

namespace aftercheck::pt::test {
namespace {

using Line = std::tuple<uint64_t, uint64_t, int, uint64_t>;  // offset, value, type (-status for damage), ip

std::vector<Line> by_scanner(std::span<const uint8_t> bytes) {
  std::vector<Line> lines;
  PacketScanner scanner(bytes);
  while (scanner.synchronise()) {
    ScannedPacket p;
    while (scanner.next(p))
      lines.emplace_back(p.offset, p.packet.value, static_cast<int>(p.packet.type), p.has_ip ? p.ip : 0);
    if (scanner.error().status == DecodeStatus::ok) break;
    lines.emplace_back(scanner.error().offset, 0, -static_cast<int>(scanner.error().status), 0);
  }
  return lines;
}

std::vector<Line> by_stream(std::span<const uint8_t> bytes, Random& random, size_t most) {
  std::vector<Line> lines;
  PacketStream stream(
      [&](const ScannedPacket& p) {
        lines.emplace_back(p.offset, p.packet.value, static_cast<int>(p.packet.type), p.has_ip ? p.ip : 0);
      },
      [&](const ScanError& e) { lines.emplace_back(e.offset, 0, -static_cast<int>(e.status), 0); });
  while (!bytes.empty()) {
    const size_t size = std::min<size_t>(bytes.size(), random.below(most + 1));
    stream.feed(bytes.first(size));
    bytes = bytes.subspan(size);
  }
  stream.finish();
  return lines;
}

}  // namespace

TEST_CASE("pieces of any size give the scanner's packets and errors, in whole, cut and damaged traces") {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Random random(seed);
    auto bytes = encode(random_execution(random, 300), random_options(random));
    if (seed % 3 == 1) bytes.resize(random.below(bytes.size()));
    if (seed % 3 == 2)
      for (int i = 0; i < 20; ++i) bytes[random.below(bytes.size())] = static_cast<uint8_t>(random.next());
    const auto expected = by_scanner(bytes);
    for (const size_t most : {1, 3, 17, 64, 1000}) {
      INFO("seed " << seed << ", pieces up to " << most);
      CHECK(by_stream(bytes, random, most) == expected);
    }
  }
}

TEST_CASE("behind lost bytes offsets go on where the source says") {
  Random random(1);
  const auto bytes = encode(random_execution(random, 50), {});
  std::vector<uint64_t> offsets;
  PacketStream stream([&](const ScannedPacket& p) { offsets.push_back(p.offset); }, [](const ScanError&) {});
  stream.feed(bytes);
  const size_t first = offsets.size();
  stream.mark_lost(0x100000);
  stream.feed(bytes);
  REQUIRE(offsets.size() == 2 * first);
  for (size_t i = 0; i < first; ++i) CHECK(offsets[first + i] == offsets[i] + 0x100000);
}

}  // namespace aftercheck::pt::test
