// Flow decoding against libipt and against the expected addresses, on every real trace.
#include <algorithm>
#include <catch2/catch.hpp>

#include "collector.h"
#include "libipt_flow.h"
#include "pt-trace/encoder.h"
#include "pt_data.h"

using namespace aftercheck::pt;
using namespace aftercheck::pt::test;

namespace {

void require_equal(const std::vector<uint64_t>& ours, const std::vector<uint64_t>& expected) {
  const size_t common = std::min(ours.size(), expected.size());
  for (size_t i = 0; i < common; ++i)
    if (ours[i] != expected[i])
      FAIL("instruction " << i << ": " << std::hex << ours[i] << " instead of " << expected[i]);
  REQUIRE(ours.size() == expected.size());
}

void decode(const RealTrace& trace, Collector& collector, size_t piece = SIZE_MAX) {
  const Decoded done = decode(trace.image(), collector, trace.bytes, options_for(trace), piece);
  REQUIRE(done.totals.blocks == collector.block_count);
  for (const FlowEvent& e : collector.errors)
    UNSCOPED_INFO("error at trace offset " << std::hex << e.offset << ": " << flow_status_text(e.status)
                                           << " from " << e.from << " to " << e.to);
}

}  // namespace

TEST_CASE("every instruction of the real traces, as expected") {
  PT_DATA_OR_SKIP(folder);
  for (const char* name : {"icelake_tip", "dynamorio_v5", "foo", "avscript_32", "dynamorio_v2"}) {
    INFO(name);
    const RealTrace trace = load_real_trace(folder, name);
    Collector ours;
    decode(trace, ours);
    CHECK(ours.errors.empty());
    require_equal(ours.ips, expected_ips(folder + "/" + name + "/ips.gz"));
  }
}

TEST_CASE("every block of the real traces, as libipt's block decoder gives it") {
  PT_DATA_OR_SKIP(folder);
  for (const char* name : {"icelake_tip", "dynamorio_v5", "foo", "avscript_32", "dynamorio_v2", "qemu"}) {
    INFO(name);
    const RealTrace trace = load_real_trace(folder, name);
    Collector ours;
    decode(trace, ours);
    CHECK(ours.errors.empty());
    size_t position = 0;
    bool same = true;
    LibiptDecoder libipt(trace);
    const auto errors = libipt.blocks(trace.bytes, [&](const pt_block& block) {
      if (!same) return;
      const size_t last = position + block.ninsn - 1;
      same = last < ours.ips.size() && ours.ips[position] == block.ip && ours.ips[last] == block.end_ip;
      if (same)
        position = last + 1;
      else
        UNSCOPED_INFO("libipt block at instruction " << position << ": " << std::hex << block.ip << " to "
                                                     << block.end_ip << " of " << block.ninsn << "; ours "
                                                     << ours.ips.at(std::min(position, ours.ips.size() - 1)));
    });
    CHECK(errors.empty());
    CHECK(same);
    CHECK(position == ours.ips.size());
    if (std::string(name) == "qemu") CHECK(position == 9635736);
  }
}

TEST_CASE("flow decoding does not depend on how the trace is cut into pieces") {
  PT_DATA_OR_SKIP(folder);
  for (const char* name : {"icelake_tip", "dynamorio_v5", "foo", "avscript_32", "dynamorio_v2"}) {
    const RealTrace trace = load_real_trace(folder, name);
    const auto expected = expected_ips(folder + "/" + name + "/ips.gz");
    for (const size_t piece : {1, 3, 17, 100, 4096}) {
      INFO(name << " in pieces of " << piece);
      Collector ours;
      decode(trace, ours, piece);
      CHECK(ours.errors.empty());
      require_equal(ours.ips, expected);
    }
  }
}

TEST_CASE("a trace that starts anywhere decodes exactly from its first PSB") {
  PT_DATA_OR_SKIP(folder);
  Random random(8);
  for (const char* name : {"foo", "dynamorio_v2", "avscript_32"}) {
    RealTrace trace = load_real_trace(folder, name);
    const auto whole = trace.bytes;
    const auto expected = expected_ips(folder + "/" + name + "/ips.gz");
    for (int round = 0; round < 60; ++round) {
      const size_t cut = random.below(whole.size());
      INFO(name << " from byte " << cut);
      trace.bytes.assign(whole.begin() + static_cast<ptrdiff_t>(cut), whole.end());
      Collector ours;
      decode(trace, ours);
      REQUIRE(ours.ips.size() <= expected.size());
      const bool suffix = std::equal(ours.ips.rbegin(), ours.ips.rend(), expected.rbegin());
      // Behind a PSB, compressed returns never need calls from before it (manual: "RET Compression"), so
      // nothing is lost.
      CHECK(ours.errors.empty());
      CHECK(suffix);
    }
  }
}

TEST_CASE("code that changes while the trace runs") {
  // Twice the same address: first two NOPs and SYSCALL, then a jump over a byte that is no instruction.
  const auto first =
      std::make_shared<const std::vector<uint8_t>>(std::vector<uint8_t>{0x90, 0x90, 0x0f, 0x05});
  const auto second = std::make_shared<const std::vector<uint8_t>>(
      std::vector<uint8_t>{0xeb, 0x01, 0x06, 0x90, 0x90, 0x0f, 0x05});
  Encoder encoder;
  for (int i = 0; i < 4; ++i) {
    encoder.enable(0x1000);
    encoder.disable();
  }
  CodeImage image;
  image.map(0x1000, first);
  class Remap : public Collector {
   public:
    void on_event(const FlowEvent& event) override {
      Collector::on_event(event);
      if (event.kind != FlowEventKind::disabled) return;
      ++exits;
      if (exits == 2) image->map(0x1000, code);
      if (exits == 3) image->unmap(0x1000, 4);
    }
    CodeImage* image = nullptr;
    std::shared_ptr<const std::vector<uint8_t>> code;
    int exits = 0;
  } sink;
  sink.image = &image;
  sink.code = second;
  decode(image, sink, encoder.bytes());
  const std::vector<uint64_t> expected = {0x1000, 0x1001, 0x1002, 0x1000, 0x1001,
                                          0x1002, 0x1000, 0x1003, 0x1004, 0x1005};
  CHECK(sink.ips == expected);
  REQUIRE(sink.errors.size() == 1);
  CHECK(sink.errors[0].status == FlowStatus::no_code);
  CHECK(sink.errors[0].from == 0x1000);
}

TEST_CASE("blocks that a change leaves as they were are the same blocks") {
  using Bytes = std::vector<uint8_t>;
  const auto shared = [](Bytes bytes) { return std::make_shared<const Bytes>(std::move(bytes)); };
  constexpr int kRounds = 500;
  Encoder encoder;
  for (int i = 0; i < kRounds; ++i)
    for (const uint64_t ip : {0x1000, 0x2000}) {
      encoder.enable(ip);
      encoder.disable();
    }
  const bool changes = GENERATE(false, true);
  class Remap : public Collector {
   public:
    void on_event(const FlowEvent& event) override {
      Collector::on_event(event);
      if (event.kind == FlowEventKind::disabled) image->map(0x2000, codes[++exits / 2 % 2]);
    }
    CodeImage* image = nullptr;
    std::shared_ptr<const Bytes> codes[2];
    size_t exits = 0;
  } sink;
  CodeImage image;
  image.map(0x1000, shared({0x90, 0x0f, 0x05}));
  sink.image = &image;
  sink.codes[0] = shared({0x90, 0x90, 0x0f, 0x05});
  // The same length and number of instructions, but others.
  sink.codes[1] = changes ? shared({0x66, 0x90, 0x90, 0x0f, 0x05}) : shared({0x90, 0x90, 0x0f, 0x05});
  image.map(0x2000, sink.codes[0]);
  const Decoded done = decode(image, sink, encoder.bytes());
  CHECK(sink.errors.empty());
  CHECK(done.blocks == (changes ? 1 + kRounds : 2));
  std::vector<uint64_t> expected;
  for (uint64_t i = 0; i < kRounds; ++i) {
    const uint64_t longer = changes ? i % 2 : 0;
    expected.insert(expected.end(), {0x1000, 0x1001, 0x2000, 0x2001 + longer, 0x2002 + longer});
  }
  const bool same = sink.ips == expected;
  CHECK(same);
}

TEST_CASE("a branch whose target alone changes is another block") {
  using Bytes = std::vector<uint8_t>;
  class Remap : public Collector {
   public:
    void on_event(const FlowEvent& event) override {
      Collector::on_event(event);
      if (event.kind == FlowEventKind::disabled) image->map(0x2000, codes[++exits % 2]);
    }
    CodeImage* image = nullptr;
    std::shared_ptr<const Bytes> codes[2];
    size_t exits = 0;
  } sink;
  // jne over the syscall, or over the nop behind it too
  for (const uint8_t distance : {uint8_t{2}, uint8_t{3}})
    sink.codes[distance - 2] =
        std::make_shared<const Bytes>(Bytes{0x75, distance, 0x0f, 0x05, 0x90, 0x90, 0x0f, 0x05});
  CodeImage image;
  sink.image = &image;
  image.map(0x2000, sink.codes[0]);
  Encoder encoder;
  std::vector<uint64_t> expected;
  for (int i = 0; i < 20; ++i) {
    const bool near = i % 2 == 0;
    encoder.enable(0x2000);
    encoder.conditional(true, near ? 0x2004 : 0x2005);
    encoder.disable();
    expected.push_back(0x2000);
    if (near) expected.push_back(0x2004);
    expected.insert(expected.end(), {0x2005, 0x2006});
  }
  decode(image, sink, encoder.bytes());
  CHECK(sink.errors.empty());
  const bool same = sink.ips == expected;
  CHECK(same);
}

TEST_CASE("a source gives code when it is asked for, which is no change") {
  const auto page = std::make_shared<const std::vector<uint8_t>>(std::vector<uint8_t>{0x90, 0x0f, 0x05});
  CodeImage image;
  std::vector<uint64_t> asked;
  image.set_source([&](uint64_t address) {
    asked.push_back(address);
    if (address == 0x1000 || address == 0x2000) image.fill(address, page);
  });
  Encoder encoder;
  for (const uint64_t ip : {0x1000, 0x2000, 0x3000, 0x1000}) {
    encoder.enable(ip);
    encoder.disable();
  }
  Collector sink;
  decode(image, sink, encoder.bytes());
  CHECK(image.generation() == 0);
  CHECK(sink.ips == std::vector<uint64_t>{0x1000, 0x1001, 0x2000, 0x2001, 0x1000, 0x1001});
  REQUIRE(sink.errors.size() == 1);
  CHECK(sink.errors[0].status == FlowStatus::no_code);
  CHECK(std::count(asked.begin(), asked.end(), 0x1000) == 1);
  CHECK(image.mapped_at(0x3000).empty());
  image.set_source({});
  CHECK(image.at(0x4000).empty());
  CHECK(image.at(0x1000).size() == 3);
}

TEST_CASE("errors name the packet and the address, and decoding goes on") {
  // jz +0; syscall at 0x1000
  const auto code =
      std::make_shared<const std::vector<uint8_t>>(std::vector<uint8_t>{0x74, 0x00, 0x0f, 0x05});
  CodeImage image;
  image.map(0x1000, code);
  Encoder encoder;
  encoder.enable(0x1000);
  encoder.synchronise();
  const uint64_t bad = encoder.bytes().size();
  encoder.indirect(0x2000);  // but a conditional branch stands there
  encoder.enable(0x1000);
  encoder.conditional(true, 0x1002);
  encoder.disable();
  Collector sink;
  decode(image, sink, encoder.bytes());
  REQUIRE(sink.errors.size() == 1);
  CHECK(sink.errors[0].status == FlowStatus::wrong_packet);
  CHECK(sink.errors[0].offset == bad);
  CHECK(sink.errors[0].from == 0x1000);
  CHECK(sink.ips == std::vector<uint64_t>{0x1000, 0x1002});
}

TEST_CASE("mappings replace, split and join") {
  CodeImage image;
  const auto bytes = [](uint8_t value, size_t size) {
    return std::make_shared<const std::vector<uint8_t>>(std::vector<uint8_t>(size, value));
  };
  image.map(0x1000, bytes(1, 0x100));
  image.map(0x1100, bytes(2, 0x100));
  image.map(0x1080, bytes(3, 0x20));
  uint8_t buffer[0x210];
  REQUIRE(image.read(0x1000, buffer, sizeof buffer) == 0x200);
  CHECK(int{buffer[0x7f]} == 1);
  CHECK(int{buffer[0x80]} == 3);
  CHECK(int{buffer[0x9f]} == 3);
  CHECK(int{buffer[0xa0]} == 1);
  CHECK(int{buffer[0x100]} == 2);
  image.unmap(0x10f0, 0x20);
  CHECK(image.read(0x1000, buffer, sizeof buffer) == 0xf0);
  CHECK(image.at(0x1110).size() == 0xf0);
  CHECK(image.at(0x10f0).empty());
  CHECK(image.at(0).empty());
  image.map(~uint64_t{0} - 15, bytes(4, 16));
  CHECK(image.at(~uint64_t{0}).size() == 1);
  CHECK_THROWS(image.map(~uint64_t{0} - 15, bytes(4, 17)));
  CHECK_THROWS(image.map(0, bytes(1, 4), 2, 3));
}

TEST_CASE("transactions, PTWRITE and packets that only look like branches") {
  // 1000: xbegin 1010; nop; nop; xend; syscall    1010: nop; syscall
  std::vector<uint8_t> code(0x20, 0x90);
  const uint8_t begin[] = {0xc7, 0xf8, 0x0a, 0, 0, 0, 0x90, 0x90, 0x0f, 0x01, 0xd5, 0x0f, 0x05};
  std::copy(std::begin(begin), std::end(begin), code.begin());
  code[0x11] = 0x0f;
  code[0x12] = 0x05;
  CodeImage image;
  image.map(0x1000, std::make_shared<const std::vector<uint8_t>>(code));
  const auto packets = [](std::initializer_list<int> tail) {
    Encoder encoder;
    encoder.enable(0x1000);
    auto bytes = encoder.take();
    for (const int byte : tail) bytes.push_back(static_cast<uint8_t>(byte));
    return bytes;
  };
  Collector sink;
  FlowDecoder decoder(image, sink);
  sink.decoder = &decoder;
  SECTION("commit") {
    // MODE.TSX in transaction, FUP 1006; MODE.TSX out of it, FUP 100b; TIP.PGD
    decoder.feed(packets({0x99, 0x21, 0x3d, 0x06, 0x10, 0x99, 0x20, 0x3d, 0x0b, 0x10, 0x01}));
    decoder.finish();
    CHECK(sink.ips == std::vector<uint64_t>{0x1000, 0x1006, 0x1007, 0x1008, 0x100b});
  }
  SECTION("abort") {
    // MODE.TSX aborted, FUP 1007, TIP 1010; TIP.PGD
    decoder.feed(
        packets({0x99, 0x21, 0x3d, 0x06, 0x10, 0x99, 0x22, 0x3d, 0x07, 0x10, 0x2d, 0x10, 0x10, 0x01}));
    decoder.finish();
    CHECK(sink.ips == std::vector<uint64_t>{0x1000, 0x1006, 0x1010, 0x1011});
  }
  SECTION("PTWRITE with its FUP, EXSTOP with its FUP") {
    decoder.feed(packets({0x02, 0x92, 1, 2, 3, 4, 0x3d, 0x06, 0x10, 0x02, 0xe2, 0x3d, 0x07, 0x10, 0x01}));
    decoder.finish();
    CHECK(sink.ips == std::vector<uint64_t>{0x1000, 0x1006, 0x1007, 0x1008, 0x100b});
  }
  CHECK(sink.errors.empty());
}

TEST_CASE("event tracing: FUPs of CFE and MODE.Exec tell where something was, and lose no instructions") {
  // 1000: cli; nop; nop; jmp rax    2000: nop; (handler) iretq    3000: rsm    3010: vmresume    3020: uiret;
  // 3024: syscall
  CodeImage image;
  const auto map = [&image](uint64_t address, std::vector<uint8_t> code) {
    image.map(address, std::make_shared<const std::vector<uint8_t>>(std::move(code)));
  };
  map(0x1000, {0xfa, 0x90, 0x90, 0xff, 0xe0});
  map(0x2000, {0x90, 0x48, 0xcf});
  map(0x3000, {0x0f, 0xaa});
  map(0x3010, {0x0f, 0x01, 0xc3});
  map(0x3020, {0xf3, 0x0f, 0x01, 0xec, 0x0f, 0x05});
  Encoder encoder;
  encoder.enable(0x1000);
  auto bytes = encoder.take();
  const auto put = [&bytes](std::initializer_list<int> more) {
    for (const int byte : more) bytes.push_back(static_cast<uint8_t>(byte));
  };
  put({0x99, 0x01, 0x3d, 0x00, 0x10});                                // MODE.Exec without IF, FUP 1000: CLI
  put({0x02, 0x53, 0x00, 1, 2, 3, 4, 5, 6, 7, 8});                    // EVD: CR2
  put({0x02, 0x13, 0x81, 0x0e, 0x3d, 0x02, 0x10});                    // CFE INTR 14, FUP 1002,
  put({0x99, 0x01, 0x2d, 0x00, 0x20});                                // MODE.Exec, TIP 2000
  put({0x02, 0x13, 0x82, 0x00, 0x3d, 0x01, 0x20});                    // CFE IRET, FUP 2001,
  put({0x99, 0x05, 0x2d, 0x02, 0x10});                                // MODE.Exec with IF, TIP 1002
  put({0x2d, 0x00, 0x30});                                            // TIP 3000
  put({0x02, 0x13, 0x84, 0x00, 0x3d, 0x00, 0x30, 0x2d, 0x10, 0x30});  // CFE RSM, FUP 3000, TIP 3010
  put({0x02, 0x13, 0x87, 0x00, 0x3d, 0x10, 0x30, 0x2d, 0x20, 0x30});  // CFE VM entry, FUP 3010, TIP 3020
  put({0x02, 0x13, 0x8d, 0x00, 0x3d, 0x20, 0x30, 0x2d, 0x24, 0x30});  // CFE UIRET, FUP 3020, TIP 3024
  put({0x01});                                                        // TIP.PGD: SYSCALL
  const std::vector<uint64_t> expected{0x1000, 0x1001, 0x2000, 0x2001, 0x1002,
                                       0x1003, 0x3000, 0x3010, 0x3020, 0x3024};
  for (const size_t piece : {size_t{1}, size_t{7}, bytes.size()}) {
    INFO("pieces of " << piece);
    Collector sink;
    decode(image, sink, bytes, {}, piece);
    CHECK(sink.errors.empty());
    CHECK(sink.ips == expected);
  }
}

TEST_CASE("a PSB that cuts a packet off costs no more than that packet") {
  // 1000: jmp rax    8200: six times jz +0; syscall; where what is left of the PSB would lead
  CodeImage image;
  image.map(0x1000, std::make_shared<const std::vector<uint8_t>>(std::vector<uint8_t>{0xff, 0xe0}));
  std::vector<uint8_t> other;
  for (int i = 0; i < 6; ++i) other.insert(other.end(), {0x74, 0x00});
  other.insert(other.end(), {0x0f, 0x05});
  for (const uint64_t address : {0x8202, 0x0282, 0x8282})
    image.map(address, std::make_shared<const std::vector<uint8_t>>(other));
  for (const std::initializer_list<uint8_t> packet : {std::initializer_list<uint8_t>{0x2d},
                                                      {0x2d, 0x82},
                                                      {0x6d, 1},
                                                      {0x6d, 1, 2},
                                                      {0x6d, 1, 2, 3, 4, 5},
                                                      {0x19, 1},
                                                      {0x02, 0xc3, 0x88},
                                                      {0x02, 0x43, 1, 2},
                                                      {0x59}})
    for (const bool compressed : {false, true}) {
      Encoder encoder;
      encoder.enable(0x1000);
      auto bytes = encoder.take();
      bytes.insert(bytes.end(), packet);
      for (int i = 0; i < 8; ++i) bytes.insert(bytes.end(), {0x02, 0x82});
      bytes.insert(bytes.end(), {0x7d, 0, 0x10, 0, 0, 0, 0, 0x02, 0x23});  // FUP 1000, PSBEND
      bytes.insert(bytes.end(), {0x2d, 0x02, 0x82, 0x04, 0x01});           // TIP 8202, N, TIP.PGD
      for (const size_t piece : {size_t{1}, size_t{5}, bytes.size()}) {
        INFO("packet " << int{*packet.begin()} << ", " << packet.size() << " bytes of it, pieces of "
                       << piece);
        Collector sink;
        FlowOptions options;
        options.return_compression = compressed;
        decode(image, sink, bytes, options, piece);
        REQUIRE(sink.errors.size() >= 1);
        CHECK(std::any_of(sink.errors.begin(), sink.errors.end(),
                          [](const FlowEvent& e) { return e.status == FlowStatus::bad_packet; }));
        // The jump, where its TIP was begun; what comes behind the PSB.
        auto ips = sink.ips;
        if (packet.begin()[0] % 32 == 0x0d) {
          REQUIRE(!ips.empty());
          ips.erase(ips.begin());
        }
        CHECK(ips == std::vector<uint64_t>{0x1000, 0x8202, 0x8204});
      }
    }
}

TEST_CASE("JMPABS has a TIP, ERETS and ERETU are far returns") {
  // 1000: nop; jmpabs 2000    2000: erets    2010: cs eretu
  CodeImage image;
  const auto map = [&image](uint64_t address, std::vector<uint8_t> code) {
    image.map(address, std::make_shared<const std::vector<uint8_t>>(std::move(code)));
  };
  map(0x1000, {0x90, 0xd5, 0x00, 0xa1, 0x00, 0x20, 0, 0, 0, 0, 0, 0});
  map(0x2000, {0xf2, 0x0f, 0x01, 0xca, 0x90});
  map(0x2010, {0x2e, 0xf3, 0x0f, 0x01, 0xca, 0x90});
  Encoder encoder;
  encoder.enable(0x1000);
  encoder.indirect(0x2000);
  encoder.indirect(0x2010);
  encoder.disable();
  encoder.enable(0x2000);
  encoder.disable();
  Collector sink;
  decode(image, sink, encoder.bytes());
  CHECK(sink.errors.empty());
  CHECK(sink.ips == std::vector<uint64_t>{0x1000, 0x1001, 0x2000, 0x2010, 0x2000});
}

TEST_CASE("found by fuzzing") {
  CodeImage image;
  image.map(0x1000, std::make_shared<const std::vector<uint8_t>>(std::vector<uint8_t>{0x0f, 0x05}));
  Collector sink;
  FlowDecoder decoder(image, sink);
  sink.decoder = &decoder;
  Encoder encoder;
  SECTION("a PSB+ that says address 0 is not one without an address, also when it is repeated") {
    encoder.enable(0);
    auto bytes = encoder.take();
    bytes.push_back(0x01);  // TIP.PGD where no code is: an error
    for (int i = 0; i < 3; ++i) {
      for (int n = 0; n < 8; ++n) bytes.insert(bytes.end(), {0x02, 0x82});
      bytes.insert(bytes.end(), {0x3d, 0, 0, 0x02, 0x23});
      bytes.insert(bytes.end(), 40, 0);
      bytes.push_back(0x01);
    }
    decoder.feed(bytes);
    decoder.finish();
    CHECK(sink.errors.size() == 4);
    CHECK(sink.ips.empty());
  }
  SECTION("tracing that goes off at an address where no code is") {
    encoder.enable(0x5000);
    encoder.disable(0x6000);
    encoder.enable(0x1000);
    encoder.disable();
    decoder.feed(encoder.bytes());
    decoder.finish();
    REQUIRE(sink.errors.size() == 1);
    CHECK(sink.errors[0].status == FlowStatus::no_code);
    CHECK(sink.errors[0].from == 0x5000);
    CHECK(sink.ips == std::vector<uint64_t>{0x1000});
  }
}
