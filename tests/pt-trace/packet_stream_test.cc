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

TEST_CASE("a PSB that cuts a packet off is found, wherever it cuts") {
  // Every kind of packet that has several bytes.
  const std::vector<std::vector<uint8_t>> packets = {
      {0x6d, 1, 2, 3, 4, 5, 6},                                                     // TIP
      {0xdd, 1, 2, 3, 4, 5, 6, 7, 0},                                               // FUP
      {0x31, 1, 2},                                                                 // TIP.PGE
      {0x41, 1, 2, 3, 4},                                                           // TIP.PGD
      {0x02, 0xa3, 1, 2, 3, 4, 5, 6},                                               // long TNT
      {0x02, 0x43, 1, 2, 3, 4, 5, 6},                                               // PIP
      {0x02, 0xc8, 1, 2, 3, 4, 5},                                                  // VMCS
      {0x02, 0x03, 1, 0},                                                           // CBR
      {0x02, 0x73, 1, 2, 0, 4, 0},                                                  // TMA
      {0x02, 0xc3, 0x88, 1, 2, 3, 4, 5, 6, 7, 8},                                   // MNT
      {0x02, 0xc2, 1, 2, 3, 4, 5, 6, 7, 8},                                         // MWAIT
      {0x02, 0xb2, 1, 2, 3, 4, 5, 6, 7, 8},                                         // PTW
      {0x02, 0x53, 1, 2, 3, 4, 5, 6, 7, 8, 9},                                      // EVD
      {0x02, 0x82, 2, 0x82, 2, 0x82, 2, 0x82, 2, 0x82, 2, 0x82, 2, 0x82, 2, 0x82},  // PSB
      {0x19, 1, 2, 3, 4, 5, 6, 7},                                                  // TSC
      {0x59, 1},                                                                    // MTC
      {0x99, 1},                                                                    // MODE
      {0x07, 3, 3, 3, 2},                                                           // CYC
  };
  Random random(3);
  for (const auto& packet : packets)
    for (size_t cut = 1; cut < packet.size(); ++cut) {
      INFO("packet " << int{packet[0]} << " " << int{packet[1]} << " cut to " << cut);
      std::vector<uint8_t> bytes;
      const auto psb = [&bytes] {
        for (int i = 0; i < 8; ++i) bytes.insert(bytes.end(), {0x02, 0x82});
        bytes.insert(bytes.end(), {0x02, 0x23});
      };
      psb();
      bytes.insert(bytes.end(), packet.begin(), packet.begin() + static_cast<ptrdiff_t>(cut));
      const size_t second = bytes.size();
      psb();
      bytes.insert(bytes.end(), {0x59, 0x77});
      const auto lines = by_scanner(bytes);
      const auto is_second = [&](const Line& line) {
        return std::get<0>(line) == second && std::get<2>(line) == static_cast<int>(PacketType::psb);
      };
      REQUIRE(std::any_of(lines.begin(), lines.end(), is_second));
      CHECK(lines.back() == Line(second + psb_size + 2, 0x77, static_cast<int>(PacketType::mtc), 0));
      CHECK(std::any_of(lines.begin(), lines.end(), [](const Line& line) { return std::get<2>(line) < 0; }));
      for (const size_t most : {1, 3, 17, 1000}) CHECK(by_stream(bytes, random, most) == lines);
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
