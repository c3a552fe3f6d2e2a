// Control flow as Intel PT sees it, in the portions in which it is handed on.
#pragma once

#include <cstdint>

namespace aftercheck {

// `count` conditional branches in a row, then, if `indirect`, an indirect jump or call, a return or a far
// transfer. Execution goes on at `next`; if not `indirect`, that is where it is between these branches and
// what comes then, be it a SYSCALL.
struct BranchRun {
  static constexpr unsigned kMost = 48;  // conditional branches

  uint64_t outcomes = 0;  // the oldest in the highest of `count` bits, 1: taken; the bits above are 0
  uint64_t next = 0;
  uint32_t count = 0;  // at most kMost
  bool indirect = false;
};

}  // namespace aftercheck
