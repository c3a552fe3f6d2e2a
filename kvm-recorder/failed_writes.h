// What the kernel wrote into guest memory for a call that then failed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace aftercheck {

struct Call;  // system_calls.h

// Some calls store results and fail all the same (waitid: zeros with ECHILD; socketpair: the numbers of
// descriptors that it then closes; sched_setattr: the size it knows with E2BIG), and no manual page lists
// them all. So the buffers that a call might write are remembered before it, and compared after a failure. A
// successful call costs the copy of at most kKept bytes, a call without such buffers nothing. One call's.
class FailedWrites {
 public:
  // Before the call. `address`: what the kernel gets, guest memory or a stand-in (call_buffers.h); null and
  // non-canonical ones are passed over. Of a buffer that is too large to be kept whole its start is.
  void watch(uint64_t address, uint64_t size);
  // After a failure: notes what changed. Where the start of a larger buffer did, all of it that can be
  // reached.
  void note(Call& call) const;

 private:
  static constexpr size_t kKept = 1024;       // bytes, all buffers together: siginfo and rusage have 272
  static constexpr size_t kKeptOfLarge = 64;  // transfers: the kernel writes from the start on
  struct Piece {
    uint64_t address, size;
    size_t offset, kept;  // in before_
  };

  std::array<Piece, 6> pieces_;
  size_t count_ = 0, used_ = 0;
  std::array<std::byte, kKept> before_;
};

}  // namespace aftercheck
