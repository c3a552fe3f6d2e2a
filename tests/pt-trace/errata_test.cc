// What is wrong with the traces of some processors, on the smallest traces that show it; libipt is asked too.
#include "pt-trace/errata.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>

#include "collector.h"
#include "libipt_flow.h"
#include "pt-trace/branch_stream.h"
#include "pt-trace/packet_scanner.h"
#include "pt-trace/packet_stream.h"

namespace aftercheck::pt::test {
namespace {

// A trace with one piece of code, in a file for libipt.
class Case {
 public:
  Case(std::vector<uint8_t> code, uint64_t address, unsigned model) : code_(std::move(code)) {
    char name[] = "/tmp/aftercheck-errata-XXXXXX";
    const int file = ::mkstemp(name);
    REQUIRE(file >= 0);
    ::close(file);
    path_ = name;
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(code_.data()), static_cast<std::streamsize>(code_.size()));
    trace_.code = {{path_, 0, code_.size(), address}};
    trace_.cpu = {pcv_intel, 6, static_cast<uint8_t>(model), 3};
    for (int i = 0; i < 8; ++i) put({0x02, 0x82});
    put({0x99, 0x01, 0x02, 0x23});
  }
  ~Case() { ::unlink(path_.c_str()); }
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

  void put(std::initializer_list<int> bytes) {
    for (const int byte : bytes) trace_.bytes.push_back(static_cast<uint8_t>(byte));
  }
  RealTrace& trace() { return trace_; }

  // The instructions that executed; the same however the trace is cut.
  Collector ours() const {
    Collector first;
    decode(trace_.image(), first, trace_.bytes, options_for(trace_));
    for (const size_t piece : {size_t{1}, size_t{3}, size_t{20}}) {
      INFO("pieces of " << piece);
      Collector other;
      decode(trace_.image(), other, trace_.bytes, options_for(trace_), piece);
      CHECK(other.ips == first.ips);
      CHECK(other.errors.size() == first.errors.size());
    }
    return first;
  }
  // First instruction of each of libipt's blocks, and how many there are in all.
  std::vector<uint64_t> libipt(size_t& instructions) const {
    std::vector<uint64_t> starts;
    instructions = 0;
    LibiptDecoder(trace_).blocks(trace_.bytes, [&](const pt_block& block) {
      starts.push_back(block.ip);
      instructions += block.ninsn;
    });
    return starts;
  }

 private:
  std::vector<uint8_t> code_;
  std::string path_;
  RealTrace trace_;
};

constexpr unsigned skylake = 0x5e, skylake_server = 0x55, without_any = 0x01;
using Ips = std::vector<uint64_t>;

}  // namespace

TEST_CASE("every erratum that libipt knows of a processor is known here") {
  unsigned known = 0;
  for (unsigned model = 0; model < 256; ++model) {
    pt_cpu cpu = {pcv_intel, 6, static_cast<uint8_t>(model), 0};
    pt_errata theirs{};
    if (pt_cpu_errata(&theirs, &cpu) == -pte_bad_cpu)
      continue;  // a processor without PT, or newer than 2.0.5
    ++known;
    const Errata ours = errata_of(6, model);
    INFO("model " << model);
    CHECK(ours.bdm64 == (theirs.bdm64 != 0));
    CHECK(ours.skd007 == (theirs.skd007 != 0));
    CHECK(ours.skd010 == (theirs.skd010 != 0));
    // libipt 2.0.5 knows fewer models with these.
    CHECK((ours.skd022 || theirs.skd022 == 0));
    CHECK((ours.skl014 || theirs.skl014 == 0));
    CHECK((ours.skz84 || theirs.skz84 == 0));
  }
  CHECK(known > 10);
  CHECK_FALSE(errata_of(15, skylake).skd007);
}

TEST_CASE("SKZ84: a corrupted TMA is one packet, with nothing lost behind it") {
  for (const unsigned model : {without_any, skylake_server}) {
    const bool known = model == skylake_server;
    INFO("known " << known);
    // nop; syscall
    Case c({0x90, 0x0f, 0x05}, 0x1000, model);
    c.put({0x02, 0x73, 0x34, 0x12, 0xff, 0x00, 0x00});  // TMA with reserved bits
    c.put({0x00});                                // PAD: libipt 2.0.5 takes such a TMA for a byte longer
    c.put({0x71, 0x00, 0x10, 0, 0, 0, 0, 0x01});  // TIP.PGE 1000, TIP.PGD
    const Collector flow = c.ours();
    CHECK(flow.errors.empty() == known);
    CHECK(flow.ips == (known ? Ips{0x1000, 0x1001} : Ips{}));
    const Errata errata = errata_of(6, model);
    BranchStream branches([](const StreamExit&) {}, {}, errata);
    branches.feed(c.trace().bytes);
    branches.finish();
    CHECK(branches.totals().damaged == (known ? 0u : 1u));
    CHECK(branches.totals().exits == (known ? 1u : 0u));
    size_t streamed = 0, scanned = 0;
    PacketStream packets([&](const ScannedPacket&) { ++streamed; }, [](const ScanError&) {}, errata);
    packets.feed(c.trace().bytes);
    packets.finish();
    PacketScanner scanner(c.trace().bytes, 0, errata);
    REQUIRE(scanner.synchronise());
    ScannedPacket packet;
    while (scanner.next(packet)) ++scanned;
    CHECK(streamed == scanned);
    CHECK(streamed == (known ? 7u : 3u));
    size_t instructions = 0;
    c.libipt(instructions);
    CHECK(instructions == flow.ips.size());
  }
}

TEST_CASE("SKD007: an overflow in the second byte of a CYC is one for every reader") {
  // nop; syscall
  Case c({0x90, 0x0f, 0x05}, 0x1000, skylake);
  c.put({0x71, 0x00, 0x10, 0, 0, 0, 0});
  c.put({0x07, 0x02, 0xf3});                    // CYC, whose second byte is the first of an OVF
  c.put({0x7d, 0x01, 0x10, 0, 0, 0, 0, 0x01});  // FUP 1001, TIP.PGD
  const Errata errata = errata_of(6, skylake);
  const Collector flow = c.ours();
  CHECK(flow.errors.empty());
  CHECK(flow.overflows == 1);
  CHECK(flow.ips == Ips{0x1001});
  for (const size_t piece : {size_t{1}, size_t{100}}) {
    std::vector<StreamExit> exits;
    BranchStream branches([&](const StreamExit& exit) { exits.push_back(exit); }, {}, errata);
    size_t ovf = 0;
    PacketStream packets([&](const ScannedPacket& p) { ovf += p.packet.type == PacketType::ovf; },
                         [](const ScanError& e) { FAIL(e.text()); }, errata);
    for (size_t at = 0; at < c.trace().bytes.size(); at += piece) {
      const auto bytes = std::span(c.trace().bytes).subspan(at, std::min(piece, c.trace().bytes.size() - at));
      branches.feed(bytes);
      packets.feed(bytes);
    }
    branches.finish();
    packets.finish();
    CHECK(branches.totals().overflows == 1);
    CHECK(branches.totals().damaged == 0);
    REQUIRE(exits.size() == 1);
    CHECK_FALSE(exits[0].verified);
    CHECK(ovf == 1);
  }
  // The same CYC as the last thing in the trace is itself.
  c.trace().bytes.resize(c.trace().bytes.size() - 9);
  size_t packets_seen = 0;
  PacketStream packets([&](const ScannedPacket&) { ++packets_seen; },
                       [](const ScanError& e) { FAIL(e.text()); }, errata);
  packets.feed(c.trace().bytes);
  packets.finish();
  CHECK(packets_seen == 5);
  BranchStream branches([](const StreamExit&) {}, {}, errata);
  branches.feed(c.trace().bytes);
  branches.finish();
  CHECK(branches.totals().damaged == 0);
  CHECK(c.ours().errors.empty());
}

TEST_CASE("SKD010: without its FUP, tracing goes on at the next address that is known") {
  // 1000: jz +0; nop; jmp rax    1005: jz +0; syscall
  const std::vector<uint8_t> code{0x74, 0x00, 0x90, 0xff, 0xe0, 0x74, 0x00, 0x0f, 0x05};
  const auto start = [&](std::initializer_list<int> between) {
    auto c = std::make_unique<Case>(code, 0x1000, skylake);
    c->put({0x71, 0x00, 0x10, 0, 0, 0, 0, 0x02, 0xf3});  // TIP.PGE 1000, OVF
    c->put(between);
    c->put({0x04, 0x01});  // N, TIP.PGD
    return c;
  };
  const Ips behind{0x1005, 0x1007};
  size_t instructions = 0;
  SECTION("outcomes, then an interrupt from 1002 to 1005") {
    const auto c = start({0x04, 0x7d, 0x02, 0x10, 0, 0, 0, 0, 0x2d, 0x05, 0x10});
    const Collector flow = c->ours();
    CHECK(flow.errors.empty());
    CHECK(flow.ips == behind);
    CHECK(flow.overflows == 1);
    // libipt takes tracing for disabled then, and finds nothing but an error.
    c->libipt(instructions);
    CHECK(instructions == 0);
  }
  SECTION("a packet that never stands between OVF and its FUP") {
    const auto c = start({0x02, 0x43, 0, 0x10, 0, 0, 0, 0, 0x7d, 0x02, 0x10, 0, 0, 0, 0, 0x2d, 0x05, 0x10});
    const Collector flow = c->ours();
    CHECK(flow.errors.empty());
    CHECK(flow.ips == behind);
    CHECK(flow.overflows == 1);
    CHECK(c->libipt(instructions) == Ips{0x1005, 0x1007});
    CHECK(instructions == 2);
  }
  SECTION("an event's FUP at a conditional branch, where no TIP can be") {
    const auto c = start({0x7d, 0x00, 0x10, 0, 0, 0, 0, 0x2d, 0x05, 0x10});
    const Collector flow = c->ours();
    CHECK(flow.errors.empty());
    CHECK(flow.ips == behind);
    CHECK(flow.overflows == 1);
  }
  SECTION("the FUP is there") {
    const auto c = start({0x7d, 0x02, 0x10, 0, 0, 0, 0, 0x2d, 0x05, 0x10});
    const Collector flow = c->ours();
    CHECK(flow.errors.empty());
    CHECK(flow.ips == Ips{0x1002, 0x1003, 0x1005, 0x1007});
    c->libipt(instructions);
    CHECK(instructions == 4);
  }
}

TEST_CASE("SKL014: a direct branch out of the filter, without its address") {
  // 1000: nop; call 1010    1006: jz 1010; nop; ret    1010: nop; syscall
  const std::vector<uint8_t> code{0x90, 0xe8, 0x0a, 0, 0, 0, 0x74, 0x08, 0x90, 0xc3,
                                  0,    0,    0,    0, 0, 0, 0x90, 0x0f, 0x05};
  for (const bool filtered : {true, false}) {
    INFO("filter known " << filtered);
    const auto start = [&](int address, std::initializer_list<int> more) {
      auto c = std::make_unique<Case>(code, 0x1000, skylake);
      if (filtered) c->trace().filter = {{0x1000, 0x100f}};
      c->put({0x71, address, 0x10, 0, 0, 0, 0});
      c->put(more);
      return c;
    };
    size_t instructions = 0;
    const auto call = start(0x00, {0x01});  // TIP.PGD
    const Collector flow = call->ours();
    CHECK(flow.errors.empty());
    CHECK(flow.ips == (filtered ? Ips{0x1000, 0x1001} : Ips{0x1000, 0x1001, 0x1010, 0x1011}));
    call->libipt(instructions);
    CHECK(instructions == flow.ips.size());
    const auto outcome = start(0x06, {0x06, 0x01});  // T, TIP.PGD
    const Collector taken = outcome->ours();
    CHECK(taken.errors.empty());
    CHECK(taken.ips == (filtered ? Ips{0x1006} : Ips{0x1006, 0x1010, 0x1011}));
  }
}

TEST_CASE("MOV CR3 that switches tracing off has no PIP, and those that leave it on have one") {
  // 1000: mov cr3, rax; nop; mov cr3, rcx; nop; sysret
  const std::vector<uint8_t> code{0x0f, 0x22, 0xd8, 0x90, 0x0f, 0x22, 0xd9, 0x90, 0x48, 0x0f, 0x07};
  const Ips all{0x1000, 0x1003, 0x1004, 0x1007, 0x1008};
  const size_t executed[] = {1, 3, 5};  // by the number of PIP packets
  for (size_t pips = 0; pips < 3; ++pips) {
    INFO(pips << " PIP packets");
    Case c(code, 0x1000, without_any);
    c.put({0x71, 0x00, 0x10, 0, 0, 0, 0});
    for (size_t i = 0; i < pips; ++i) c.put({0x02, 0x43, 0, 0x10, 0, 0, 0, 0});
    c.put({0x01});
    const Collector flow = c.ours();
    CHECK(flow.errors.empty());
    CHECK(flow.ips == Ips(all.begin(), all.begin() + static_cast<ptrdiff_t>(executed[pips])));
    size_t instructions = 0;
    c.libipt(instructions);
    // libipt ends at the MOV CR3 of the last PIP, which cannot be: that one left tracing on.
    CHECK(instructions == (pips == 0 ? 1 : executed[pips - 1]));
  }
  // What is behind it need not be at hand.
  Case cut({0x90, 0x0f, 0x22, 0xd8}, 0x1000, without_any);
  cut.put({0x71, 0x00, 0x10, 0, 0, 0, 0, 0x01});
  const Collector flow = cut.ours();
  CHECK(flow.errors.empty());
  CHECK(flow.ips == Ips{0x1000, 0x1001});
  // Nor in the same piece of straight code.
  std::vector<uint8_t> long_code(5000, 0x90);
  const uint8_t write[] = {0x0f, 0x22, 0xd8};
  std::copy(std::begin(write), std::end(write), long_code.begin() + 2000);
  Case straight(long_code, 0x1000, without_any);
  straight.put({0x71, 0x00, 0x10, 0, 0, 0, 0, 0x01});
  const Collector run = straight.ours();
  CHECK(run.errors.empty());
  CHECK(run.ips.size() == 2001);
}

}  // namespace aftercheck::pt::test
