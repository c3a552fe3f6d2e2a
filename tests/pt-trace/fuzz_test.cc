// Deterministic fuzzing: mutations of valid input, the same in every run. scripts/fuzz does more.
#include <catch2/catch.hpp>

#include "fuzz_targets.h"
#include "program.h"
#include "pt-trace/perf_data.h"
#include "tests/base/sanitized.h"

using namespace aftercheck::pt;
using namespace aftercheck::pt::test;

namespace {

// Changes a few bytes, and sometimes moves, doubles or removes a stretch.
void mutate(std::vector<uint8_t>& bytes, Random& random) {
  for (uint64_t n = 1 + random.below(8); n > 0 && !bytes.empty(); --n) {
    const size_t at = random.below(bytes.size());
    const size_t length = std::min<size_t>(1 + random.below(24), bytes.size() - at);
    const auto from = bytes.begin() + static_cast<ptrdiff_t>(at);
    switch (random.below(6)) {
      case 0:
        bytes[at] ^= static_cast<uint8_t>(1u << random.below(8));
        break;
      case 1:
        bytes[at] = static_cast<uint8_t>(random.next());
        break;
      case 2:
        bytes.erase(from, from + static_cast<ptrdiff_t>(length));
        break;
      case 3: {
        const std::vector<uint8_t> copy(from, from + static_cast<ptrdiff_t>(length));
        bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(random.below(bytes.size())), copy.begin(),
                     copy.end());
        break;
      }
      case 4: {
        constexpr uint8_t openings[] = {0x02, 0x82, 0xf3, 0x99, 0x1d, 0x7d, 0x01,
                                        0x11, 0xa3, 0x63, 0x33, 0x0d, 0xdd, 0x07};
        bytes[at] = openings[random.below(std::size(openings))];
        break;
      }
      default:
        std::fill_n(from, length, static_cast<uint8_t>(random.below(2) * 0xff));
        break;
    }
  }
}

// Runs `target` on mutations of the seeds for a fixed number of rounds; a quarter under sanitizers, where
// scripts/fuzz has more of them.
template <typename Target>
void hammer(const std::vector<std::vector<uint8_t>>& seeds, uint64_t rounds, Target target) {
  Random random(2026);
  if (aftercheck::test::kSanitized) rounds /= 4;
  for (uint64_t round = 0; round < rounds; ++round) {
    auto input = seeds[random.below(seeds.size())];
    mutate(input, random);
    try {
      target(input);
    } catch (const std::exception& error) {
      FAIL("round " << round << ": " << error.what());
    }
  }
  SUCCEED(rounds << " rounds");
}

}  // namespace

TEST_CASE("fuzzing: packets and branch stream") { hammer(fuzz_traces(), 60000, fuzz_packets); }

TEST_CASE("fuzzing: flow decoding") { hammer(fuzz_traces(), 30000, fuzz_flow); }

TEST_CASE("fuzzing: perf.data") {
  PT_DATA_OR_SKIP(folder);
  // The records in front are what matters; AUX data is only passed on.
  std::vector<std::vector<uint8_t>> seeds;
  for (const char* name : {"perf.data", "perf.data.piped"}) {
    const auto bytes = read_file(folder + "/perf_data/" + name);
    seeds.push_back(bytes);
    seeds.emplace_back(bytes.begin(), bytes.begin() + 16000);
  }
  hammer(seeds, 40000, fuzz_perf_data);
}

TEST_CASE("fuzzing: bytes at random") {
  Random random(6);
  std::vector<uint8_t> bytes;
  for (int round = 0; round < 4000; ++round) {
    bytes.resize(random.below(3000));
    for (auto& byte : bytes) byte = static_cast<uint8_t>(random.next() & random.next());
    // So that something is decoded at all.
    for (size_t i = 0; i < std::min<size_t>(16, bytes.size()); ++i) bytes[i] = i % 2 == 0 ? 0x02 : 0x82;
    fuzz_packets(bytes);
    fuzz_flow(bytes);
    fuzz_perf_data(bytes);
  }
  SUCCEED();
}
