// A short run of what scripts/differential-soak does at length: programs made at random, on the translated
// machine and on KVM, and to places that are told by counts of branches on the soft vCPU too.
#include <catch2/catch.hpp>
#include <iostream>

#include "tests/base/sanitized.h"
#include "tests/machine/machines.h"
#include "tests/machine/random_comparison.h"

namespace aftercheck {
namespace {

void random_programs(BranchCounts counts, uint64_t instructions,
                     CpuModelKind model = CpuModelKind::portable) {
  if (lacking(MachineKind::translated, model) || lacking(MachineKind::kvm, model)) return;
  ComparisonOptions options;
  options.seed = 20261127 + Catch::rngSeed();  // --rng-seed N: others
  options.instructions = test::kSanitized ? instructions / 60 : instructions;
  options.counts = counts;
  options.model = model;
  const ComparisonResult result = compare_programs(options);
  std::cout << "seed " << options.seed << ": " << result.programs << " programs, " << result.instructions
            << " instructions, " << result.exits << " exits, " << result.refused << " refused, "
            << result.endless << " endless\n";
  INFO(result.difference);
  CHECK(result.difference.empty());
  CHECK(result.refused < result.programs / 10);
  CHECK(result.endless < result.programs / 100 + 1);
  // Most of what is written down is executed.
  CHECK(result.executed > result.stepped * 20);
  CHECK(result.branches > result.programs);
}

void random_places(BranchCounts counts, uint64_t instructions) {
  if (lacking(MachineKind::translated) || lacking(MachineKind::kvm) || lacking(MachineKind::soft)) return;
  ComparisonOptions options;
  options.seed = 20261128 + Catch::rngSeed();  // --rng-seed N: others
  options.instructions = test::kSanitized ? instructions / 60 : instructions;
  options.steps_every = 0;
  options.places_every = 1;
  options.counts = counts;
  const ComparisonResult result = compare_programs(options);
  std::cout << "seed " << options.seed << ": " << result.programs << " programs, " << result.places
            << " places, " << result.steps << " steps, " << result.shared_steps << " on the soft vCPU too, "
            << result.apart << " ways told undefined flags\n";
  INFO(result.difference);
  CHECK(result.difference.empty());
  CHECK(result.places > 4 * result.programs);
  CHECK(result.apart < result.places / 10 + 5);
  CHECK(result.shared_steps > result.steps / 2);
}

}  // namespace

TEST_CASE("random programs give on the translated machine what they give on KVM") {
  random_programs(BranchCounts::automatic, 600'000);
}
TEST_CASE(
    "random programs give on the translated machine what they give on KVM, with branches counted in memory") {
  random_programs(BranchCounts::in_memory, 150'000);
}
TEST_CASE("random programs of v3 give on the translated machine what they give on KVM") {
  random_programs(BranchCounts::automatic, 150'000, CpuModelKind::v3);
}
TEST_CASE(
    "random programs of v3 give on the translated machine what they give on KVM, with branches counted in "
    "memory") {
  random_programs(BranchCounts::in_memory, 150'000, CpuModelKind::v3);
}

TEST_CASE("places in random programs, told by branches and RIP, are reached on the machines that count") {
  random_places(BranchCounts::automatic, 300'000);
}
TEST_CASE(
    "places in random programs, told by branches and RIP, are reached on the machines that count, with "
    "branches counted in memory") {
  random_places(BranchCounts::in_memory, 150'000);
}

}  // namespace aftercheck
