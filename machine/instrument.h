// What a vCPU tells an analysis of the guest's execution: blocks, branches, calls, loads and stores. The
// analysis never disturbs the guest.
#pragma once

#include <cstdint>
#include <span>

namespace aftercheck {

// One thing that was executed.
struct Executed {
  enum class Kind : uint8_t {
    block,        // a stretch of code without a branch that is taken: [address, to)
    conditional,  // a branch, taken or not; LOOPcc and JRCXZ too
    jump,         // direct
    call,         // direct
    indirect_jump,
    indirect_call,
    ret,
    load,
    store,  // of memory that is read as well, too
  };
  Kind kind = Kind::block;
  bool taken = false;    // conditional
  uint64_t size = 0;     // load, store: bytes
  uint64_t address = 0;  // of the instruction, or of the block's first
  uint64_t to = 0;       // branches: where the guest goes on; load, store: the memory's address
};

class Instrument {
 public:
  struct Wants {
    bool blocks = false;
    bool branches = false;  // conditional, jump, call, indirect_jump, indirect_call, ret
    bool accesses = false;  // load, store
  };

  virtual ~Instrument() = default;
  // Asked once, by Vcpu::set_instrument(). What is not wanted costs nothing, or next to nothing.
  virtual Wants wants() const = 0;
  // In the order of execution: a block, then what its instructions did, one after the other, their reads
  // before their writes, their branch last. What did not come to pass because the instruction faulted is not
  // told. A repeated string instruction tells each of its operands in one piece, or in several where it was
  // interrupted, of which the last comes behind its block; other instructions tell their whole operand, also
  // where a mask lets them touch only parts of it. What the kernel, or the recorder for it, does in a system
  // call is none of it, nor are SYSCALL and trapped instructions branches.
  //
  // Called on the thread that runs the vCPU, from inside run(), step() or run_until(), up to some ten
  // thousand blocks behind the guest; must not throw, and must not touch the vCPU or the guest's memory. When
  // they have returned everything up to the exit has been told.
  virtual void executed(std::span<const Executed> all) = 0;
};

}  // namespace aftercheck
