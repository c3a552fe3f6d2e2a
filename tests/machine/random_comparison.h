// Random programs on the translated machine and on KVM, each to its end, by way of all its exits; on the
// translated machine instruction by instruction; and there and on the soft vCPU to places in between, each
// told by its count of branches and RIP.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "machine/vcpu.h"
#include "tests/machine/random_program.h"

namespace aftercheck {

struct ComparisonOptions {
  uint64_t seed = 1;
  uint64_t first = 0;         // number of the first program: (seed, number) says what it is
  uint64_t instructions = 0;  // to be written down, at least
  uint64_t steps_every = 4;   // of so many programs one is executed by single steps as well; 0: none
  uint64_t places_every = 0;  // of so many one goes to places in it, on the soft vCPU too; 0: none
  CpuModelKind model = CpuModelKind::portable;
  BranchCounts counts = BranchCounts::automatic;
};

struct ComparisonResult {
  uint64_t programs = 0, instructions = 0;  // as they are written down
  uint64_t stepped = 0;                     // of them the programs executed by single steps
  uint64_t executed = 0;                    // instructions in those
  uint64_t exits = 0, branches = 0;
  uint64_t refused = 0;  // programs that came to something which the translated machine refuses by name
  // Programs with places: their steps on the translated machine, those of them that the soft vCPU took too,
  // and the places that were gone to on either; and ways on the soft vCPU that can't be compared, since it
  // was there told flags that processors leave undefined.
  uint64_t with_places = 0, steps = 0, shared_steps = 0, places = 0, apart = 0;
  uint64_t endless = 0;  // and those that did not come to their end soon, or differ only in how far they came
  std::string difference;  // empty: none
};

// Stops at the first difference. Called with what there is so far, now and then: false to end.
class ComparisonProgress {
 public:
  virtual ~ComparisonProgress() = default;
  virtual bool at(const ComparisonResult& so_far, uint64_t next_program) = 0;
};

// Throws Error(host_lacks) where one of the machines is not to be had, or needs the only AddressSpace. A
// program is the same, and at the same place, whatever the first one is. On one thread, which is the
// machines'.
ComparisonResult compare_programs(const ComparisonOptions& options, ComparisonProgress* progress = nullptr);

}  // namespace aftercheck
