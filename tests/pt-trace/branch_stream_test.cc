// The promise of the canonical stream: one execution, however it is written, has one digest at every exit;
// another execution has another.
#include "pt-trace/branch_stream.h"

#include <catch2/catch.hpp>

#include "executions.h"

using namespace aftercheck::pt;
using namespace aftercheck::pt::test;

namespace {

struct Result {
  std::vector<StreamExit> exits;
  StreamTotals totals;
};

// `cut`, if given, makes the size of the next piece.
Result canonical(std::span<const uint8_t> trace, Random* cut = nullptr, uint64_t largest_piece = 1) {
  Result result;
  BranchStream stream([&](const StreamExit& exit) { result.exits.push_back(exit); });
  while (!trace.empty()) {
    const size_t size =
        cut == nullptr ? trace.size() : std::min<size_t>(trace.size(), cut->below(largest_piece) + 1);
    stream.feed(trace.first(size));
    trace = trace.subspan(size);
  }
  stream.finish();
  result.totals = stream.totals();
  return result;
}

void require_same(const std::vector<StreamExit>& a, const std::vector<StreamExit>& b) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    INFO("exit " << i);
    REQUIRE(a[i].segment == b[i].segment);
    REQUIRE(a[i].rolling == b[i].rolling);
    REQUIRE(a[i].resume == b[i].resume);
    REQUIRE(a[i].from == b[i].from);
    REQUIRE(a[i].branch_bits == b[i].branch_bits);
    REQUIRE(a[i].targets == b[i].targets);
    REQUIRE(a[i].verified);
    REQUIRE(b[i].verified);
  }
}

size_t count_exits(const std::vector<Step>& steps) {
  size_t exits = 1;  // the closing one of encode()
  for (const Step& step : steps) exits += step.kind == Step::system_call || step.kind == Step::fault;
  return exits;
}

}  // namespace

TEST_CASE("one execution written in many ways has one digest at every exit") {
  for (uint64_t seed = 0; seed < 150; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    const auto steps = random_execution(random, 200 + random.below(3000));
    const auto plain = canonical(encode(steps, {}));
    REQUIRE(plain.exits.size() == count_exits(steps));
    REQUIRE(plain.totals.damaged == 0);
    for (int way = 0; way < 6; ++way) {
      size_t interruptions = 0;
      const auto trace = encode(steps, random_options(random), [&](Encoder& encoder, size_t i) {
        if (random.below(40) == 0) encoder.options() = random_options(random);
        if (random.below(30) == 0) encoder.synchronise();
        if (random.below(30) == 0) encoder.flush();
        if (random.below(30) == 0 && steps[i].kind != Step::fault) {
          encoder.host_interruption();
          ++interruptions;
        }
        if (random.below(30) == 0) encoder.core_bus_ratio(static_cast<uint8_t>(1 + random.below(255)));
      });
      const auto other = canonical(trace);
      require_same(plain.exits, other.exits);
      REQUIRE(other.totals.interruptions == interruptions);
      require_same(plain.exits, canonical(trace, &random, 1 + random.below(100)).exits);
    }
  }
}

TEST_CASE("a host interruption during an indirect branch counts as the branch") {
  Encoder plain, interrupted;
  for (Encoder* encoder : {&plain, &interrupted}) {
    encoder->enable(0x1000);
    encoder->conditional(true, 0x1010);
    if (encoder == &plain)
      encoder->indirect(0x5000);
    else
      encoder->host_interruption_at_indirect(0x5000);
    encoder->conditional(false, 0x5010);
    encoder->disable();
  }
  require_same(canonical(plain.bytes()).exits, canonical(interrupted.bytes()).exits);
}

TEST_CASE("every change of control flow changes the digest, from its exit on and not before") {
  Random random(77);
  const auto steps = random_execution(random, 400);
  const auto plain = canonical(encode(steps, {}));
  for (size_t changed = 0; changed < steps.size(); ++changed) {
    auto other_steps = steps;
    Step& step = other_steps[changed];
    switch (step.kind) {
      case Step::conditional:
        step.taken = !step.taken;
        break;
      default:
        step.address ^= 0x10;
        break;
    }
    const auto other = canonical(encode(other_steps, {}));
    size_t segment = count_exits({steps.begin(), steps.begin() + static_cast<ptrdiff_t>(changed)}) - 1;
    // The address after an exit belongs to the segment that it starts.
    if (step.kind == Step::system_call || step.kind == Step::fault) ++segment;
    REQUIRE(other.exits.size() == plain.exits.size());
    for (size_t i = 0; i < plain.exits.size(); ++i) {
      INFO("step " << changed << " exit " << i << " segment " << segment);
      REQUIRE((plain.exits[i].segment == other.exits[i].segment) == (i != segment));
      REQUIRE((plain.exits[i].rolling == other.exits[i].rolling) == (i < segment));
    }
  }
}

TEST_CASE("missing, additional and swapped branches change the digest") {
  Random random(78);
  auto steps = random_execution(random, 300);
  std::erase_if(steps, [](const Step& s) { return s.kind == Step::system_call || s.kind == Step::fault; });
  const auto plain = canonical(encode(steps, {})).exits.at(0).segment;
  for (size_t i = 0; i + 1 < steps.size(); ++i) {
    auto missing = steps;
    missing.erase(missing.begin() + static_cast<ptrdiff_t>(i));
    REQUIRE_FALSE(canonical(encode(missing, {})).exits.at(0).segment == plain);
    auto doubled = steps;
    doubled.insert(doubled.begin() + static_cast<ptrdiff_t>(i), steps[i]);
    REQUIRE_FALSE(canonical(encode(doubled, {})).exits.at(0).segment == plain);
  }
}

TEST_CASE("long segments pass through the hash in blocks, whatever the grouping") {
  Random random(5);
  std::vector<Step> steps(60000);
  for (auto& step : steps) {
    step.kind = random.below(4) == 0 ? Step::indirect : Step::conditional;
    step.taken = random.below(2) == 0;
    step.address = random.below(1u << 20);
  }
  const auto plain = canonical(encode(steps, {}));
  REQUIRE(plain.exits.size() == 1);
  for (int way = 0; way < 10; ++way)
    require_same(plain.exits, canonical(encode(steps, random_options(random))).exits);
  steps[100].taken = !steps[100].taken;
  steps[100].address ^= 0x40;
  REQUIRE_FALSE(canonical(encode(steps, {})).exits[0].segment == plain.exits[0].segment);
}

TEST_CASE("the rolling digest depends on the order of segments") {
  const auto rolling = [](bool first, bool second) {
    Encoder encoder;
    for (const bool taken : {first, second}) {
      encoder.enable(0x1000);
      encoder.conditional(taken, taken ? 0x2000 : 0x1002);
      encoder.disable();
    }
    const Result result = canonical(encoder.bytes());
    REQUIRE(result.exits.size() == 2);
    return result.exits.back().rolling;
  };
  CHECK(rolling(true, false) == rolling(true, false));
  CHECK_FALSE(rolling(true, false) == rolling(false, true));
  CHECK_FALSE(rolling(true, true) == rolling(false, false));
}

TEST_CASE("an overflow makes its segment unverified and nothing else") {
  Random random(9);
  const auto steps = random_execution(random, 3000);
  const auto plain = canonical(encode(steps, {}));
  size_t overflow_step = 1500;
  while (steps[overflow_step].kind != Step::conditional) ++overflow_step;
  const auto cut = canonical(encode(steps, {}, [&](Encoder& encoder, size_t i) {
    if (i == overflow_step) encoder.overflow(0x12345);
  }));
  REQUIRE(cut.totals.overflows == 1);
  const size_t segment =
      count_exits({steps.begin(), steps.begin() + static_cast<ptrdiff_t>(overflow_step)}) - 1;
  REQUIRE(plain.exits.size() == cut.exits.size());
  for (size_t i = 0; i < plain.exits.size(); ++i) {
    REQUIRE(cut.exits[i].verified == (i != segment));
    if (i != segment) REQUIRE(plain.exits[i].segment == cut.exits[i].segment);
    if (i < segment) REQUIRE(plain.exits[i].rolling == cut.exits[i].rolling);
  }
  // The other side restarts its rolling digest at the same exit, and both agree again.
  std::vector<StreamExit> restarted;
  BranchStream* self = nullptr;
  BranchStream stream([&](const StreamExit& exit) {
    restarted.push_back(exit);
    if (exit.index == segment) self->restart();
  });
  self = &stream;
  stream.feed(encode(steps, {}));
  stream.finish();
  for (size_t i = segment + 1; i < plain.exits.size(); ++i)
    REQUIRE(restarted[i].rolling == cut.exits[i].rolling);
}

TEST_CASE(
    "a missing TIP.PGE or TIP.PGD leaves its segment unverified, and what is before and behind it verified") {
  // Segments of one outcome each; `without` leaves packets out.
  const auto trace = [](size_t without_pge, size_t without_pgd, bool outcomes) {
    std::vector<uint8_t> bytes;
    for (int i = 0; i < 8; ++i) bytes.insert(bytes.end(), {0x02, 0x82});
    bytes.insert(bytes.end(), {0x99, 0x01, 0x02, 0x23});
    for (uint8_t i = 0; i < 5; ++i) {
      if (i != without_pge) bytes.insert(bytes.end(), {0x71, i, 0x10, 0x40, 0, 0, 0});
      if (outcomes) bytes.push_back(0x06);
      if (i != without_pgd) bytes.push_back(0x01);
    }
    return canonical(bytes).exits;
  };
  for (const bool outcomes : {true, false}) {
    INFO("outcomes " << outcomes);
    const auto whole = trace(9, 9, outcomes);
    REQUIRE(whole.size() == 5);
    for (const auto& exit : whole) CHECK(exit.verified);
    const auto no_pge = trace(2, 9, outcomes);
    REQUIRE(no_pge.size() == 5);
    for (size_t i = 0; i < 5; ++i) {
      INFO("exit " << i);
      CHECK(no_pge[i].verified == (i != 2));
      if (i != 2) CHECK(no_pge[i].segment == whole[i].segment);
    }
    CHECK_FALSE(no_pge[1].has_resume);
    const auto no_pgd = trace(9, 2, outcomes);
    REQUIRE(no_pgd.size() == 4);
    for (size_t i = 0; i < 4; ++i) CHECK(no_pgd[i].verified == (i != 2));
    CHECK(no_pgd[3].segment == whole[4].segment);
  }
}

TEST_CASE("a PSB that cuts a packet off leaves one segment unverified") {
  std::vector<uint8_t> bytes;
  const auto put = [&bytes](std::initializer_list<int> more) {
    for (const int byte : more) bytes.push_back(static_cast<uint8_t>(byte));
  };
  for (int segment = 0; segment < 4; ++segment) {
    for (int i = 0; i < 8; ++i) put({0x02, 0x82});
    put({0x99, 0x01, 0x02, 0x23, 0x71, segment, 0x10, 0x40, 0, 0, 0, 0x06, 0x01});
    if (segment == 1) put({0x71, 9, 0x10, 0x40, 0, 0, 0, 0x06, 0x6d, 1, 2});  // cut off
  }
  const auto result = canonical(bytes);
  CHECK(result.totals.damaged == 1);
  // The exit that was lost with what followed the cut is not known to have been one.
  REQUIRE(result.exits.size() == 4);
  for (size_t i = 0; i < 4; ++i) CHECK(result.exits[i].verified == (i != 2));
}

TEST_CASE("event tracing adds nothing to the stream but what the guest did") {
  const auto digest = [](bool events) {
    std::vector<uint8_t> bytes;
    const auto put = [&bytes](std::initializer_list<int> more) {
      for (const int byte : more) bytes.push_back(static_cast<uint8_t>(byte));
    };
    for (int i = 0; i < 8; ++i) put({0x02, 0x82});
    put({0x99, 0x05, 0x02, 0x23, 0x71, 0, 0x10, 0x40, 0, 0, 0, 0x06});  // PSB+, TIP.PGE, T
    if (events) put({0x99, 0x01, 0x3d, 0x08, 0x10});                    // MODE.Exec, FUP: CLI
    if (events) put({0x02, 0x53, 0x00, 1, 2, 3, 4, 5, 6, 7, 8});        // EVD
    if (events) put({0x02, 0x13, 0x81, 0x0e, 0x3d, 0x10, 0x10});        // CFE INTR, FUP
    put({0x3d, 0x10, 0x10, 0x2d, 0x00, 0x20});                          // FUP, TIP
    if (events) put({0x02, 0x13, 0x82, 0x00, 0x3d, 0x01, 0x20});        // CFE IRET, FUP
    put({0x2d, 0x10, 0x10, 0x01});                                      // TIP, TIP.PGD
    const auto exits = canonical(bytes).exits;
    REQUIRE(exits.size() == 1);
    CHECK(exits[0].verified);
    return exits[0].segment;
  };
  CHECK(digest(true) == digest(false));
}

TEST_CASE("lost data and damaged bytes make segments unverified, and the stream goes on at the next PSB") {
  Random random(10);
  const auto steps = random_execution(random, 5000);
  EncoderOptions options;
  options.psb_period = 256;
  const auto trace = encode(steps, options);
  const auto plain = canonical(trace);
  SECTION("damaged") {
    auto bad = trace;
    bad[bad.size() / 2] = 0x05;  // no packet starts so, wherever it lands it is at most one bad stretch
    bad[bad.size() / 2 + 1] = 0x05;
    std::vector<StreamDamage> damage;
    std::vector<StreamExit> exits;
    BranchStream stream([&](const StreamExit& exit) { exits.push_back(exit); },
                        [&](const StreamDamage& d) { damage.push_back(d); });
    stream.feed(bad);
    stream.finish();
    REQUIRE(stream.totals().damaged == damage.size());
    if (!damage.empty()) REQUIRE(damage[0].offset >= bad.size() / 2 - 16);
    size_t agreeing = 0;
    for (size_t i = 1; i <= std::min(exits.size(), plain.exits.size()); ++i)
      agreeing += exits[exits.size() - i].segment == plain.exits[plain.exits.size() - i].segment;
    REQUIRE(agreeing > plain.exits.size() * 3 / 4);
  }
  SECTION("lost") {
    std::vector<StreamExit> exits;
    BranchStream stream([&](const StreamExit& exit) { exits.push_back(exit); });
    const std::span<const uint8_t> all(trace);
    stream.feed(all.first(all.size() / 3));
    stream.mark_lost();
    stream.feed(all.subspan(all.size() / 2));
    stream.finish();
    size_t unverified = 0;
    for (const auto& exit : exits) unverified += !exit.verified;
    REQUIRE(unverified == 1);
    REQUIRE(exits.back().segment == plain.exits.back().segment);
    REQUIRE(stream.totals().overflows == 1);
  }
}

TEST_CASE("real traces: the digest does not depend on how the bytes are cut") {
  PT_DATA_OR_SKIP(folder);
  for (const char* name : {"foo", "avscript_32", "icelake_tip", "dynamorio_v2", "dynamorio_v5", "qemu"}) {
    INFO(name);
    const auto trace = read_file(folder + "/" + name + "/trace.pt");
    const auto whole = canonical(trace);
    REQUIRE(whole.totals.damaged == 0);
    REQUIRE(whole.exits.size() == whole.totals.exits);
    Random random(3);
    for (const uint64_t largest : {1, 7, 64, 5000}) {
      if (largest == 1 && trace.size() > 1000000) continue;
      const auto pieces = canonical(trace, &random, largest);
      REQUIRE(pieces.exits.size() == whole.exits.size());
      REQUIRE(pieces.exits.back().rolling == whole.exits.back().rolling);
    }
  }
}
