// libipt decodes everything the encoder makes to exactly the control flow that was executed, and so does our
// own decoder.
#include "pt-trace/encoder.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "collector.h"
#include "executions.h"
#include "program.h"

using namespace aftercheck::pt;
using namespace aftercheck::pt::test;

namespace {

// libipt's blocks must cover exactly the executed instructions.
void judge_by_libipt(const Program& program, const Program::Execution& execution) {
  LibiptDecoder libipt(program.as_trace(execution.trace));
  size_t position = 0;
  bool same = true;
  const auto errors = libipt.blocks(execution.trace, [&](const pt_block& block) {
    const size_t last = position + block.ninsn - 1;
    same = same && last < execution.ips.size() && execution.ips[position] == block.ip &&
           execution.ips[last] == block.end_ip;
    if (!same) return;
    position = last + 1;
  });
  for (const int error : errors) UNSCOPED_INFO("libipt: " << pt_errstr(pt_errcode(error)));
  CHECK(errors.empty());
  UNSCOPED_INFO("libipt agrees for " << position << " of " << execution.ips.size() << " instructions");
  CHECK(same);
  CHECK(position == execution.ips.size());
}

// From `offset` on, where a PSB must be, our decoder must give how the execution goes on.
void judge_by_us(const Program& program, const Program::Execution& execution, bool return_compression,
                 size_t offset = 0) {
  Collector ours;
  FlowOptions options;
  options.return_compression = return_compression;
  decode(program.image(), ours, std::span(execution.trace).subspan(offset), options);
  for (const FlowEvent& e : ours.errors)
    UNSCOPED_INFO("offset " << std::hex << e.offset << ": " << flow_status_text(e.status) << " from "
                            << e.from << " to " << e.to);
  CHECK(ours.errors.empty());
  REQUIRE(ours.ips.size() <= execution.ips.size());
  CHECK(!ours.ips.empty());
  const auto before = offset == 0 ? 0 : execution.ips.size() - ours.ips.size();
  const auto expected = std::span(execution.ips).subspan(before);
  const auto different = std::mismatch(ours.ips.begin(), ours.ips.end(), expected.begin(), expected.end());
  UNSCOPED_INFO("the same for " << different.first - ours.ips.begin() << " of " << expected.size());
  const bool same = std::ranges::equal(ours.ips, expected);
  CHECK(same);
}

}  // namespace

TEST_CASE("libipt and the flow decoder read back what the encoder wrote") {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    const Program program(random, 20 + random.below(200),
                          seed % 3 == 0 ? ExecMode::bits32 : ExecMode::bits64);
    EncoderOptions options = random_options(random);
    options.defer_tips = false;  // libipt doesn't accept deferred TIPs
    const auto execution = program.execute(random, random, 5000, options, seed % 2 == 0 ? 0 : 20);
    judge_by_libipt(program, execution);
    judge_by_us(program, execution, true);
    judge_by_us(program, execution, false);
  }
}

TEST_CASE("branches told in runs are read back the same, from every PSB on") {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    const Program program(random, 20 + random.below(200));
    EncoderOptions options;
    if (seed % 3 == 0) options = random_options(random);
    options.defer_tips = false;
    options.psb_period = static_cast<uint32_t>(random.below(300));
    const auto execution = program.execute(random, random, 5000, options, seed % 2 == 0 ? 0 : 200, true);
    judge_by_libipt(program, execution);
    judge_by_us(program, execution, false);
    unsigned places = 0;
    for (size_t psb = find_psb(execution.trace, 1); psb != npos && places < 30; ++places) {
      INFO("from the PSB at " << psb);
      judge_by_us(program, execution, false, psb);
      psb = find_psb(execution.trace, psb + 1 + random.below(execution.trace.size() / 20));
    }
    CHECK((places > 5 || options.psb_period == 0));
  }
}

TEST_CASE("deferred TIPs, which libipt doesn't accept, are put in their places by the flow decoder") {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    const Program program(random, 100);
    EncoderOptions options = random_options(random);
    options.defer_tips = true;
    const auto execution = program.execute(random, random, 3000, options, 20);
    judge_by_us(program, execution, false);
  }
}

TEST_CASE("overflow: decoding goes on at the resume address") {
  Random random(3);
  const Program program(random, 50);
  Encoder encoder;
  std::vector<uint64_t> unused;
  encoder.enable(Program::base);
  encoder.overflow(Program::base);
  encoder.disable_asynchronous(Program::base);
  encoder.enable(Program::base);
  encoder.overflow({});
  encoder.enable(Program::base);
  encoder.disable_asynchronous(Program::base);
  const auto trace = encoder.take();
  judge_by_libipt(program, {{}, trace});
  Collector ours;
  const Decoded done = decode(program.image(), ours, trace);
  REQUIRE(ours.errors.empty());
  REQUIRE(ours.overflows == 1);  // the second resolves while tracing is off and is told by TIP.PGE
  REQUIRE(done.totals.overflows == 2);
  REQUIRE(ours.ips.empty());
}

TEST_CASE("packets that can't be are refused") {
  Encoder encoder;
  encoder.enable(0x1000);
  REQUIRE_THROWS(encoder.ptwrite(1, 3));
  REQUIRE_THROWS(encoder.core_bus_ratio(0));
}
