// perf.data files of a real machine, in file and in pipe format.
#include "pt-trace/perf_data.h"

#include <catch2/catch.hpp>
#include <cstring>

#include "base/error.h"
#include "libipt_flow.h"
#include "pt-trace/branch_stream.h"
#include "pt-trace/packet_scanner.h"
#include "pt_data.h"

using namespace aftercheck;
using namespace aftercheck::pt;
using namespace aftercheck::pt::test;

namespace {

// Scans all of a stream, with libipt beside; returns the packets.
size_t scan_with_libipt(const PerfAuxStream& stream) {
  std::vector<uint8_t> bytes;
  for (const PerfAuxPiece& piece : stream.pieces)
    bytes.insert(bytes.end(), piece.bytes.begin(), piece.bytes.end());
  pt_config config;
  pt_config_init(&config);
  config.begin = bytes.data();
  config.end = bytes.data() + bytes.size();
  std::unique_ptr<pt_packet_decoder, void (*)(pt_packet_decoder*)> libipt(pt_pkt_alloc_decoder(&config),
                                                                          pt_pkt_free_decoder);
  PacketScanner scanner(bytes);
  REQUIRE(scanner.synchronise() == (pt_pkt_sync_forward(libipt.get()) >= 0));
  size_t count = 0;
  ScannedPacket ours;
  while (scanner.next(ours)) {
    pt_packet theirs;
    uint64_t offset = 0;
    pt_pkt_get_offset(libipt.get(), &offset);
    REQUIRE(pt_pkt_next(libipt.get(), &theirs, sizeof theirs) == ours.packet.size);
    REQUIRE(offset == ours.offset);
    ++count;
  }
  REQUIRE(scanner.error().status == DecodeStatus::ok);
  return count;
}

void put(std::vector<uint8_t>& bytes, uint64_t value, size_t size) {
  for (size_t i = 0; i < size; ++i) bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

}  // namespace

TEST_CASE("perf.data in file and pipe format") {
  PT_DATA_OR_SKIP(folder);
  for (const char* name : {"perf.data", "perf.data.piped"}) {
    INFO(name);
    const PerfData data = PerfData::open(folder + "/perf_data/" + name);
    CHECK_FALSE(data.cut_off());
    CHECK(data.itrace().present);
    CHECK(data.itrace().tsc);
    CHECK(data.itrace().mtc);
    CHECK_FALSE(data.itrace().cyc);
    CHECK(data.itrace().return_compression);
    CHECK(data.itrace().tsc_ctc_numerator > 0);
    CHECK(data.family() == 6);
    CHECK(data.model() == 78);
    CHECK(data.flow_options().errata.skd022);
    REQUIRE_FALSE(data.mappings().empty());
    bool kernel = false, program = false;
    for (const PerfMapping& m : data.mappings()) {
      kernel |= m.pid == -1 && m.path.starts_with("[kernel");
      program |= m.pid > 0 && m.executable && m.path.starts_with("/");
    }
    CHECK(kernel);
    CHECK(program);
    REQUIRE_FALSE(data.streams().empty());
    size_t packets = 0;
    for (const PerfAuxStream& stream : data.streams()) {
      packets += scan_with_libipt(stream);
      BranchStream canonical([](const StreamExit&) {});
      for (const PerfAuxPiece& piece : stream.pieces) canonical.feed(piece.bytes);
      canonical.finish();
      CHECK(canonical.totals().damaged == 0);
    }
    CHECK(packets > 1000);
  }
}

TEST_CASE("damaged perf.data files are refused with the place, or read as far as they go") {
  const auto refuses = [](const std::vector<uint8_t>& bytes, const std::string& words) {
    try {
      PerfData::parse(bytes, "test.data");
      FAIL("accepted");
    } catch (const Error& error) {
      CHECK_THAT(error.what(), Catch::Matchers::Contains(words));
    }
  };
  refuses({}, "test.data: offset 0: not a perf.data file");
  std::vector<uint8_t> bytes = {'2', 'E', 'L', 'I', 'F', 'R', 'E', 'P', 0, 0, 0, 0, 0, 0, 0, 16};
  refuses(bytes, "other byte order");
  bytes = {'P', 'E', 'R', 'F', 'I', 'L', 'E', '2'};
  put(bytes, 20, 8);
  refuses(bytes, "offset 8: header size 20");
  bytes.resize(8);
  put(bytes, 16, 8);
  auto zero = bytes;
  put(zero, 0, 8);
  refuses(zero, "offset 0x10: record of 0 bytes");
  auto compressed = bytes;
  put(compressed, 81 | uint64_t{8} << 48, 8);
  refuses(compressed, "compressed");
  auto cut = bytes;
  put(cut, 71 | uint64_t{48} << 48, 8);  // AUXTRACE of 1000 bytes, of which 4 are there
  put(cut, 1000, 8);
  put(cut, 0, 8);
  put(cut, 0, 8);
  put(cut, 3 | uint64_t{77} << 32, 8);
  put(cut, 2, 8);
  put(cut, 0x01020304, 4);
  const PerfData data = PerfData::parse(cut, "test.data");
  CHECK(data.cut_off());
  REQUIRE(data.streams().size() == 1);
  CHECK(data.streams()[0].index == 3);
  CHECK(data.streams()[0].tid == 77);
  CHECK(data.streams()[0].cpu == 2);
  CHECK(data.streams()[0].size() == 4);
  CHECK_THROWS_AS(PerfData::open("/nonexistent/perf.data"), Error);
}
