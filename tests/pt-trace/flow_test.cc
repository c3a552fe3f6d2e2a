// Flow decoding against libipt and against the expected addresses, on every real trace.
#include <catch2/catch.hpp>

#include "libipt_flow.h"
#include "pt_data.h"

using namespace aftercheck::pt;
using namespace aftercheck::pt::test;

namespace {

// Turns blocks into the addresses of their instructions.
class Collector : public FlowSink {
 public:
  void on_blocks(std::span<const BlockId> blocks) override {
    for (const BlockId id : blocks) {
      if (id >= expanded_.size()) expanded_.resize(id + 1);
      auto& ips_of_block = expanded_[id];
      if (ips_of_block.empty())
        decoder->for_each_instruction(id, [&](uint64_t ip, uint8_t) { ips_of_block.push_back(ip); });
      ips.insert(ips.end(), ips_of_block.begin(), ips_of_block.end());
      ++block_count;
    }
  }
  void on_event(const FlowEvent& event) override {
    if (event.kind == FlowEventKind::error) errors.push_back(event);
    if (event.kind == FlowEventKind::overflow) ++overflows;
  }
  FlowDecoder* decoder = nullptr;
  std::vector<uint64_t> ips;
  std::vector<FlowEvent> errors;
  uint64_t block_count = 0;
  uint64_t overflows = 0;

 private:
  std::vector<std::vector<uint64_t>> expanded_;
};

void require_equal(const std::vector<uint64_t>& ours, const std::vector<uint64_t>& expected) {
  const size_t common = std::min(ours.size(), expected.size());
  for (size_t i = 0; i < common; ++i)
    if (ours[i] != expected[i])
      FAIL("instruction " << i << ": " << std::hex << ours[i] << " instead of " << expected[i]);
  REQUIRE(ours.size() == expected.size());
}

void decode(const RealTrace& trace, Collector& collector, size_t piece = SIZE_MAX) {
  const CodeImage image = trace.image();
  FlowDecoder decoder(image, collector, options_for(trace));
  collector.decoder = &decoder;
  std::span<const uint8_t> rest(trace.bytes);
  while (!rest.empty()) {
    const size_t size = std::min(piece, rest.size());
    decoder.feed(rest.first(size));
    rest = rest.subspan(size);
  }
  decoder.finish();
  REQUIRE(decoder.totals().blocks == collector.block_count);
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
