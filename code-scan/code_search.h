// Byte searches over whole program texts, at memory speed, that tell where a closer look is worth its price.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "machine/cpu_model.h"

namespace aftercheck {

// Offsets of each 0F that would begin the opcode of a trapped instruction if an instruction's opcode stood
// there, ascending. Prefixes come before it.
std::vector<size_t> find_candidates(std::span<const uint8_t> bytes,
                                    CpuModelKind model = CpuModelKind::portable);

// Bytes that would be a direct branch if an instruction stood there.
struct BranchSite {
  size_t site = 0;    // offset of the opcode (its 0F for Jcc rel32)
  size_t target = 0;  // offset of the target; always inside `bytes`
};

// An interval of offsets, [start, end).
struct Interval {
  size_t start = 0, end = 0;
};

// Branch-like bytes (CALL/JMP/Jcc rel32 anywhere, rel8 from close by) outside each interval that lead into
// it. `intervals` are ascending and disjoint. At most kMaxSites of them, so that hostile bytes don't fill the
// memory.
constexpr size_t kMaxSites = 1 << 20;
std::vector<BranchSite> find_branches_into(std::span<const uint8_t> bytes,
                                           std::span<const Interval> intervals);

}  // namespace aftercheck
