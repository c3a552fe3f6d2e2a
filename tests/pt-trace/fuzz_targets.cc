#include "fuzz_targets.h"

#include <algorithm>

#include "base/error.h"
#include "collector.h"
#include "executions.h"
#include "program.h"
#include "pt-trace/branch_stream.h"
#include "pt-trace/packet_scanner.h"
#include "pt-trace/perf_data.h"

namespace aftercheck::pt::test {
namespace {

void require(bool good, const char* what) {
  if (!good) fail(ErrorKind::internal, "fuzzing: {}", what);
}

constexpr Errata kAllErrata = {true, true, true, true, true, true};

struct StreamResult {
  uint64_t exits = 0;
  uint64_t damage = 0;
  StreamDigest mixed;
};

StreamResult run_stream(std::span<const uint8_t> input, size_t piece, const Errata& errata) {
  StreamResult result;
  BranchStream stream(
      [&](const StreamExit& exit) {
        ++result.exits;
        result.mixed.high = result.mixed.high * 31 + exit.segment.high + exit.offset;
        result.mixed.low = result.mixed.low * 31 + exit.rolling.low + exit.verified;
      },
      [&](const StreamDamage& damage) {
        ++result.damage;
        result.mixed.high = result.mixed.high * 31 + damage.offset;
      },
      errata);
  while (!input.empty()) {
    const size_t size = std::min(piece, input.size());
    stream.feed(input.first(size));
    input = input.subspan(size);
  }
  stream.finish();
  require(stream.totals().exits == result.exits, "exits reported and counted differ");
  return result;
}

const Program& fuzz_program() {
  static Random random(1);
  static const Program program(random, 300);
  return program;
}

class CountingSink : public FlowSink {
 public:
  void on_blocks(std::span<const BlockId> blocks) override {
    for (const BlockId id : blocks)
      mixed = mixed * 31 + decoder->block(id).ip + decoder->block(id).instructions;
    count += blocks.size();
  }
  void on_event(const FlowEvent& event) override {
    mixed = mixed * 31 + event.offset + event.from;
    if (image != nullptr && event.kind != FlowEventKind::error && changes < most_changes) change();
  }
  // Other code, from elsewhere in the program; every second time what is there already.
  void change() {
    const std::vector<uint8_t>& code = fuzz_program().code();
    const size_t size = code.size() / 8, to = changes * 97 % (code.size() - size),
                 from = changes % 2 == 0 ? to : changes * 61 % (code.size() - size);
    image->map(Program::base + to, std::span(code).subspan(from, size), nullptr);  // the program stays
    ++changes;
  }
  static constexpr size_t most_changes = 50;
  CodeImage* image = nullptr;  // to be changed while it is decoded
  size_t changes = 0;
  const FlowDecoder* decoder = nullptr;
  uint64_t count = 0;
  uint64_t mixed = 0;
};

}  // namespace

std::vector<std::vector<uint8_t>> fuzz_traces() {
  std::vector<std::vector<uint8_t>> seeds;
  const Program& program = fuzz_program();
  Random random(2);
  for (int i = 0; i < 24; ++i) {
    EncoderOptions options = random_options(random);
    options.psb_period = static_cast<uint32_t>(64 + random.below(512));
    seeds.push_back(program.execute(random, random, 100 + random.below(600), options, 15).trace);
    seeds.push_back(encode(random_execution(random, 300), options));
  }
  return seeds;
}

void fuzz_packets(std::span<const uint8_t> input) {
  PacketScanner scanner(input);
  uint64_t behind = 0;
  while (scanner.synchronise()) {
    ScannedPacket packet;
    while (scanner.next(packet)) {
      // Only a PSB that cut a packet off begins before that packet's end.
      const uint64_t end = packet.offset + packet.packet.size;
      require(end > behind && (packet.offset >= behind || packet.packet.type == PacketType::psb),
              "the scanner does not move on");
      behind = end;
      require(behind <= input.size(), "a packet passes the end");
    }
  }
  const Errata errata = input.size() % 2 == 0 ? kAllErrata : Errata{};
  const StreamResult whole = run_stream(input, SIZE_MAX, errata);
  const StreamResult pieces = run_stream(input, 1 + input.size() % 37, errata);
  require(whole.exits == pieces.exits && whole.mixed == pieces.mixed && whole.damage == pieces.damage,
          "the branch stream depends on how the trace is cut");
}

void fuzz_flow(std::span<const uint8_t> input) {
  input = input.first(std::min<size_t>(input.size(), 65536));
  static const CodeImage unchanged = fuzz_program().image();
  uint64_t results[2];
  for (const bool whole : {true, false}) {
    CodeImage image = unchanged;
    CountingSink sink;
    if (input.size() % 3 == 0) sink.image = &image;
    FlowOptions options;
    options.return_compression = input.size() % 2 == 0;
    options.errata = kAllErrata;
    if (input.size() % 5 == 0)
      options.filter = {{Program::base, Program::base + fuzz_program().code().size() / 2}};
    FlowDecoder decoder(image, sink, options);
    sink.decoder = &decoder;
    const size_t piece = whole ? std::max<size_t>(input.size(), 1) : 1 + input.size() % 41;
    for (std::span<const uint8_t> rest = input; !rest.empty();
         rest = rest.subspan(std::min(piece, rest.size())))
      decoder.feed(rest.first(std::min(piece, rest.size())));
    decoder.finish();
    // Blocks start at instruction addresses, in four modes, and may be cut short at any instruction.
    require(decoder.block_count() < fuzz_program().code().size() * 64 * (1 + sink.changes),
            "more blocks than the code has");
    results[whole] = sink.mixed;
  }
  require(results[0] == results[1], "flow decoding depends on how the trace is cut");
}

void fuzz_perf_data(std::span<const uint8_t> input) {
  try {
    const PerfData data = PerfData::parse(input, "fuzz");
    uint64_t bytes = 0;
    for (const PerfAuxStream& stream : data.streams()) bytes += stream.size();
    require(bytes <= input.size(), "more AUX data than the file has");
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::bad_input || error.kind() == ErrorKind::unsupported, error.what());
  }
}

}  // namespace aftercheck::pt::test
