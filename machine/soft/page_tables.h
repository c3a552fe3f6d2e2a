// The guest's page tables as the soft vCPU's MMU walks them. With paging on, Unicorn 2.0.1 checks every
// access against real page-table entries (and raises an exact #PF), but then uses the linear address itself
// as the physical one. So the entries carry permissions only, and a change of mappings is a change of
// entries: no region of Unicorn's has to be split, which 2.0.1 gets wrong and slow.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "machine/address_space.h"
#include "machine/exit.h"

namespace aftercheck::soft {

class PageTables {
 public:
  PageTables();
  ~PageTables();
  PageTables(const PageTables&) = delete;
  PageTables& operator=(const PageTables&) = delete;

  // Guest-physical address of the tables, outside the windows and below 2^40 (Unicorn's MAXPHYADDR), and of
  // the root (CR3). The tables' memory belongs to this object.
  static constexpr uint64_t kPhysical = kTablesRange.start;
  void* memory() const { return memory_; }
  static uint64_t memory_size();

  // Gives the pages of [range) these permissions (PROT_*; 0: no access). Page-aligned. As on a processor, any
  // access implies reading. Pages beyond `valid_end` (the end of the mapped file) are made inaccessible.
  void set(Range range, int prot, uint64_t valid_end = UINT64_MAX);

  // May a ring-3 access of this kind touch the page that holds `address`?
  bool allows(uint64_t address, Access access) const;
  // First byte of [address, address+size) that may not be accessed so; nullopt: all may.
  std::optional<uint64_t> first_forbidden(uint64_t address, uint64_t size, Access access) const;

  // Makes one page readable whatever its permissions are and returns what undoes that. For the supervisor's
  // page of the start-up code (`user` false) and for invalidating translated code.
  struct Opened {
    uint64_t page, entry;
  };
  Opened open(uint64_t page, bool user);
  void close(Opened opened);

 private:
  uint64_t* table(uint64_t entry) const;
  uint64_t new_table(uint64_t fill);
  void free_tree(uint64_t entry, int level);
  uint64_t entry_for(uint64_t address) const;
  uint64_t* leaf(uint64_t address);
  void set_level(uint64_t* entries, int level, Range range, uint64_t flags);

  void* memory_ = nullptr;
  uint64_t used_ = 1;  // tables handed out; number 0 is the root
  std::vector<uint64_t> free_;
};

}  // namespace aftercheck::soft
