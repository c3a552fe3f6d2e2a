// Code in memory that is writable and executable at once, which a program changes without anybody's knowing.
#pragma once

#include <cstdint>
#include <map>

#include "machine/address_space.h"
#include "machine/exit.h"

namespace aftercheck::kvm {

// Not every processor can be made to trap all of trapped_instruction.h (RDRAND nowhere, CPUID and RDTSC not
// on every host), and what a scan has not seen is not patched. So a page of such memory can be written or
// executed, never both: it is looked at when it is executed after it was written. Nothing of this is visible
// to the guest, whose permissions are those of its mappings.
class WrittenCode {
 public:
  explicit WrittenCode(const AddressSpace& space) : space_(space) {}

  // Off, and at first: pages are as their mappings say.
  void watch(bool on);
  bool watching() const { return watching_; }

  enum class Page : uint8_t {
    written,    // may have been: not executable
    looked_at,  // holds nothing that must be trapped: executable, not writable
  };
  // Of a page of watched memory, writable and executable.
  Page page(uint64_t address) const;

  enum class Verdict : uint8_t {
    none,       // the fault is the guest's own
    changed,    // the page at the address is another now: the access is to be tried again
    untrapped,  // as ExitKind::untrapped; also where a page is written and executed in turn all the time
  };
  // What is to be done about a fault that the guest's instruction at `rip` gets.
  Verdict judge(uint64_t address, Access access, uint64_t rip);

  // Mappings in the range have changed.
  void mapped(Range range);
  // Something else than the guest on this machine has written in the range.
  void forget(Range range);

 private:
  struct State {
    Page page = Page::written;
    uint32_t times = 0;  // that it was written after having been executed
  };
  const AddressSpace& space_;
  bool watching_ = false;
  std::map<uint64_t, State> pages_;  // by start; absent: written

  bool has_trapped(uint64_t page) const;
};

}  // namespace aftercheck::kvm
