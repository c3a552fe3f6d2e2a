// What translated code and the recorder share: one block of memory below 2 GiB, which instructions address
// absolutely, so that no register is taken from the guest for it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "machine/registers.h"

namespace aftercheck::translated {

// Numbers of registers are those of instruction encoding (SDM vol. 2, table 2-2).
constexpr unsigned kRax = 0, kRcx = 1, kRsp = 4, kR11 = 11;

// Where branches are counted in memory (counting.h), each branch counts in one of these: one for all would
// make every branch wait for the one before.
constexpr size_t kCountSlots = 256;

struct alignas(64) Context {
  std::array<uint64_t, 16> gpr{};
  uint64_t rip = 0;  // set before entry, by what leaves through a table, and by faults
  uint64_t flags = 0x202;
  uint64_t host_rsp = 0;
  uint64_t rcx_spill = 0;    // while an indirect branch looks for its target
  uint64_t other_spill = 0;  // likewise RAX, or R11 for RET
  uint64_t scratch = 0;      // the guest's value of a register that a RIP-relative operand borrows
  uint64_t count_spill = 0;  // RCX while a branch is counted in memory
  uint64_t exit = 0;         // why translated code was left: an Exits number, or one of kLeft...
  uint64_t site = 0;         // the indirect branch that was executed last
  uint64_t branches = 0;     // executed since they were reset
  uint64_t one = 1;
  uint64_t left = 0;  // of a stopping translator: branches up to the one before which it stops
  uint64_t code_left =
      0;                 // where stores are journaled: bytes of code that may be executed, plus kCodeLeftBias
  uint64_t journal = 0;  // where the next entry of the journal goes
  uint64_t fs_base = 0;  // the guest's, for the addresses of what is stored
  uint64_t journal_rax = 0, journal_rcx = 0;               // while something is noted in it
  uint64_t note = 0, noted_target = 0, noted_address = 0;  // where paths and accesses are noted next
  uint64_t note_spill = 0, note_rax = 0;                   // RCX and RAX while that is done
  uint64_t four = 4, eight = 8;
  uint64_t target = 0;      // where entry jumps to
  uint64_t x87_spill = 0;   // RCX while x87 state is loaded, if need be
  uint64_t x87_resume = 0;  // and where that goes on
  // Not 0: the guest's x87 state (and MMX, the same registers) is in `fpu` only, and the processor has the
  // host's. It is loaded before the first instruction that touches any of it, and saved where translated code
  // is left: most code is left without one, and FXSAVE, FXRSTOR and FNINIT take longer than all the rest. Set
  // while the host runs.
  uint64_t x87_kept = 1;
  uint32_t host_mxcsr = 0x1f80, unused = 0;
  // An FXSAVE image. XMM0-15 in it are the guest's in the portable model only.
  alignas(64) std::array<std::byte, xsave::kLegacySize> fpu{};
  // YMM0-15 of the v3 model.
  alignas(64) std::array<std::array<std::byte, 32>, 16> ymm{};
  std::array<uint64_t, kCountSlots> slots{};
};
// So that its high half is zero where nothing is left, which is found out without changing flags.
constexpr uint64_t kCodeLeftBias = uint64_t{1} << 32;
static_assert(offsetof(Context, fpu) % 64 == 0 && sizeof(Context) < 4096);

// Values of Context::exit beside numbers of exits.
constexpr uint32_t kLeftByTable = 0xffff'ffff;  // an indirect branch whose target is in no table
constexpr uint32_t kLeftByFault = 0xffff'fffe;  // a host signal
constexpr uint32_t kLeftByKick = 0xffff'fffd;   // at an instruction boundary, in Context::rip
constexpr uint32_t kLeftAstray = 0xffff'fffc;   // what ran was nothing that was translated
constexpr uint32_t kLeftUnnoted = 0xffff'fffb;  // there is no room to note a path
constexpr uint32_t kFirstLeft = kLeftUnnoted;

// Targets of indirect branches, by their low 16 bits: where the host goes on. RET has a table of its own,
// because it spares another register.
constexpr size_t kTableSize = 1 << 16;
struct Tables {
  std::array<uint64_t, kTableSize> jumps, returns;
};

}  // namespace aftercheck::translated
