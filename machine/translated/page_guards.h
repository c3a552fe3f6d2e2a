// Guest pages that are less accessible on the host, while the guest runs, than its mappings say: so that
// stores to code that was translated are noticed, and that memory beyond the windows is used
// (AddressSpace::bring_in).
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "machine/address_space.h"

namespace aftercheck::translated {

// Not thread-safe; not while the guest runs.
class PageGuards {
 public:
  explicit PageGuards(AddressSpace& space) : space_(space) {}

  // Code in this page is about to be executed: a store to it is noticed from now on, through whatever
  // mapping.
  void executed(uint64_t page);
  // While the guest runs; what the host itself, or the kernel for it, accesses must be as it is mapped.
  void impose();
  void lift();

  // The guest could not write to this address, or not access it at all. Is it only for a guard? Then the
  // pages with code that the store will change, which are guarded no longer; none for memory that had only to
  // be brought in.
  struct Verdict {
    bool only_guarded = false;
    std::vector<uint64_t> code;
  };
  Verdict fault(uint64_t address, bool write);

  // The mappings in the range have changed: they have the host's protections anew. Returns pages with code in
  // them that can be changed otherwise now, through a mapping that is new.
  std::vector<uint64_t> mapped(Range range);

 private:
  AddressSpace& space_;
  std::map<uint64_t, std::set<uint64_t>> guarded_;  // page: the pages with the code that it shows
  std::set<uint64_t> shared_code_;                  // pages of shared mappings with code
  struct Closed {
    Range range;
    int prot;
  };
  std::vector<Closed> closed_;
  bool closed_known_ = false, imposed_ = false;

  void guard(uint64_t page, uint64_t code);
  void guard_aliases(uint64_t page, const Mapping& mapping);
  void find_closed();
  void set(Range range, int host_prot) const;
  template <typename Protection>
  void set_guarded(Protection protection) const;
};

}  // namespace aftercheck::translated
