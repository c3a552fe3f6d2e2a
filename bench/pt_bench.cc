// Intel PT: our branch stream, flow decoder and encoder beside libipt, on the same traces in the same run.
//
//   pt_bench [FOLDER [ROUNDS]]      FOLDER: pt-data (default $AFTERCHECK_PT_DATA, then ../shared/pt-data)
//
// CPU time of the thread, medians of interleaved rounds. The ratios are what counts; the milliseconds are
// this machine's.
#include <intel-pt.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "libipt_flow.h"
#include "program.h"
#include "pt-trace/branch_stream.h"
#include "pt-trace/encoder.h"
#include "pt-trace/flow_decoder.h"

using namespace aftercheck;
using namespace aftercheck::pt;
using namespace aftercheck::pt::test;

namespace {

double cpu_milliseconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) * 1e-6;
}

class Series {
 public:
  void time(const std::function<void()>& work, int repeat) {
    const double start = cpu_milliseconds();
    for (int i = 0; i < repeat; ++i) work();
    values_.push_back((cpu_milliseconds() - start) / repeat);
  }
  double median() {
    std::sort(values_.begin(), values_.end());
    return values_[values_.size() / 2];
  }

 private:
  std::vector<double> values_;
};

class BlockCounter : public FlowSink {
 public:
  void on_blocks(std::span<const BlockId> blocks) override {
    // Looks at every block, as a consumer would at the least.
    for (const BlockId id : blocks) sum += id;
    count += blocks.size();
  }
  uint64_t count = 0;
  uint64_t sum = 0;
};

uint64_t libipt_packets(std::span<const uint8_t> bytes) {
  pt_config config;
  pt_config_init(&config);
  config.begin = const_cast<uint8_t*>(bytes.data());
  config.end = config.begin + bytes.size();
  pt_packet_decoder* decoder = pt_pkt_alloc_decoder(&config);
  pt_pkt_sync_forward(decoder);
  pt_packet packet;
  uint64_t count = 0;
  while (pt_pkt_next(decoder, &packet, sizeof packet) > 0) ++count;
  pt_pkt_free_decoder(decoder);
  return count;
}

void bench_trace(const RealTrace& trace, int rounds) {
  const CodeImage image = trace.image();
  const FlowOptions options = options_for(trace);
  LibiptDecoder libipt(trace);
  BlockCounter warm_sink;
  FlowDecoder warm(image, warm_sink, options);
  const double size = static_cast<double>(trace.bytes.size());
  // Several times in a row, so that neither the clock nor what ran before is measured. Cold stays cold: the
  // caches are the decoder's own.
  const int repeat = std::max(5, static_cast<int>(1000000 / (size + 1)));
  Series packets, stream, blocks, cold_flow, warm_flow;
  uint64_t exits = 0, executed = 0, theirs = 0;
  for (int round = 0; round < rounds; ++round) {
    packets.time([&] { libipt_packets(trace.bytes); }, repeat);
    stream.time(
        [&] {
          exits = 0;
          BranchStream s([&](const StreamExit&) { ++exits; });
          s.feed(trace.bytes);
          s.finish();
        },
        repeat);
    blocks.time([&] { theirs = libipt.count_blocks(trace.bytes); }, repeat);
    cold_flow.time(
        [&] {
          BlockCounter sink;
          FlowDecoder decoder(image, sink, options);
          decoder.feed(trace.bytes);
          decoder.finish();
          executed = sink.count;
        },
        repeat);
    warm_flow.time(
        [&] {
          warm.restart();
          warm.feed(trace.bytes);
          warm.finish();
        },
        repeat);
  }
  const double p = packets.median(), s = stream.median(), b = blocks.median(), c = cold_flow.median(),
               w = warm_flow.median();
  const auto speed = [size](double ms) { return size / ms / 1e3; };
  std::printf(
      "%-13s %8.0f KB  packets: libipt %8.3f ms (%4.0f MB/s)  stream+digest %8.3f ms (%4.0f MB/s) %5.1fx\n",
      trace.name.c_str(), size / 1000, p, speed(p), s, speed(s), p / s);
  std::printf(
      "%-13s %8zu exits  flow: libipt %8.3f ms (%4.0f MB/s)  cold %8.3f ms (%4.0f MB/s) %5.1fx  warm %8.3f "
      "ms "
      "(%4.0f MB/s) %5.1fx\n",
      "", static_cast<size_t>(exits), b, speed(b), c, speed(c), b / c, w, speed(w), b / w);
  std::printf("%-13s %8zu blocks executed (libipt cuts them into %zu), %zu different\n", "",
              static_cast<size_t>(executed), static_cast<size_t>(theirs), warm.block_count());
}

// How long a processor that already knows the control flow waits for its packets.
void bench_encoder(int rounds) {
  Series series;
  size_t bytes = 0;
  constexpr int branches = 1000000;
  for (int round = 0; round < rounds; ++round) {
    series.time(
        [&] {
          Encoder encoder;
          encoder.enable(0x400000);
          uint64_t random = 1;
          for (int i = 0; i < branches; ++i) {
            random = random * 6364136223846793005 + 1442695040888963407;
            if (random >> 61 == 0)
              encoder.indirect(0x400000 + (random >> 40));
            else
              encoder.conditional((random >> 60 & 1) != 0, 0x400000 + (random >> 42));
          }
          bytes = encoder.take().size();
        },
        1);
  }
  std::printf("encoder       %.1f ns a branch, %.2f bits a branch (1 in 8 indirect)\n",
              series.median() * 1e6 / branches, static_cast<double>(bytes) * 8 / branches);
}

}  // namespace

int main(int argc, char** argv) {
  std::string folder;
  if (argc > 1) {
    folder = argv[1];
  } else if (const auto found = data_folder()) {
    folder = *found;
  } else {
    return 0;  // data_folder() has said why
  }
  const int rounds = argc > 2 ? std::max(1, std::atoi(argv[2])) : 21;
  try {
    for (const char* name : {"qemu", "foo", "avscript_32", "icelake_tip", "dynamorio_v2", "dynamorio_v5"})
      bench_trace(load_real_trace(folder, name), rounds);
    bench_encoder(rounds);
  } catch (const Error& error) {
    std::fprintf(stderr, "pt_bench: %s\n", error.what());
    return exit_status(error.kind());
  }
  return 0;
}
