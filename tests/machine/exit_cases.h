// Exits as a table that every backend must reproduce: same code and registers in, same exit and registers
// out. To run it on a machine: exit_cases::check_all(MachineKind) in a TEST_CASE of the backend's own test
// program.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "machine/vcpu.h"

namespace aftercheck::exit_cases {

// The guest memory in which the cases run.
constexpr uint64_t kCode = kMainWindow.start + 0x10000;  // two pages, readable and executable; none behind
constexpr uint64_t kCodeEnd = kCode + 2 * kPageSize;
constexpr uint64_t kData = kMainWindow.start + 0x20000;  // two pages, writable; none behind
constexpr uint64_t kDataEnd = kData + 2 * kPageSize;
constexpr uint64_t kReadOnly = kMainWindow.start + 0x30000;  // one page; a writable one before it
constexpr uint64_t kNone = kMainWindow.start + 0x40000;      // one page, PROT_NONE
constexpr uint64_t kStack = kMainWindow.start + 0x50000;     // one page, writable; none before it
constexpr uint64_t kStackTop = kStack + kPageSize;
constexpr uint64_t kHole = kMainWindow.start + 0x60000;  // nothing
constexpr uint64_t kNonCanonical = 0x8000'0000'0000'0000;

struct Case {
  std::string name;
  std::vector<uint8_t> code;
  void (*prepare)(Registers&);  // changes the registers to start with
  Exit exit;
  uint64_t rip;                // expected, relative to the start of the code
  void (*expect)(Registers&);  // changes that the code makes to the registers, RIP apart
  uint64_t at = kCode;         // where the code is put
  bool soft_differs = false;   // machine/soft/README.md says how
  // On AMD's processors: machine/translated/README.md says how.
  bool translated_differs = false;
};

const std::vector<Case>& cases();

// The registers before `prepare`: all different, and RIP at the case's code.
Registers initial_registers(const Case& test);

// An AddressSpace with the memory above and the case's code in it.
void lay_out(AddressSpace& space, const Case& test);

// Cases whose instruction the portable CPU model lacks and the host's processor may have: a host that does
// not keep ring 3 to what CR4 allows (kvm_pvm) executes them.
bool needs_cpu_mask(const Case& test);

// Cases that processors agree on and QEMU's emulated one does not: it knows no alignment check, raises no
// exception of x87 and SSE arithmetic at its instruction, looks at the target of a branch only when it
// fetches there, and calls a locked read-modify-write of a hole a read.
bool emulators_differ(const Case& test);
inline bool emulators_agree(const Case& test) { return !emulators_differ(test); }

// Runs every case that `wanted` accepts (null: all) on a fresh machine of this kind and REQUIREs what the
// table says.
void check_all(MachineKind kind, bool (*wanted)(const Case&) = nullptr);

}  // namespace aftercheck::exit_cases
