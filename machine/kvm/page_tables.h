// Guest page tables: each window chunk maps onto its memory slot with 2 MiB pages, writable, not executable.
// What the host's own mapping forbids, KVM finds out itself; only PROT_EXEC, which KVM does not look at, is
// kept here, in 4 KiB tables where a 2 MiB page is executable in part, and what written_code.h wants of pages
// that are writable, too. So no code runs that was not scanned, and both backends fault alike.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "machine/address_space.h"
#include "machine/kvm/monitor.h"
#include "machine/kvm/written_code.h"

namespace aftercheck::kvm {

constexpr uint64_t kChunkSize = 1 << 30;  // a memory slot's, and what one page directory covers

class PageTables {
 public:
  // `monitor` is the host address of the monitor slot (zeroed tables).
  PageTables(std::byte* monitor, const AddressSpace& space, const WrittenCode& written);

  // Maps the chunk that starts at `start` (1 GiB-aligned) to guest-physical `guest_physical`.
  void add_chunk(uint64_t start, uint64_t guest_physical);
  bool has_chunk(uint64_t start) const { return chunks_.contains(start); }
  // Executability in [range) may have changed. `now_executable`: some of it may be, that was not before.
  void changed(Range range, bool now_executable);

  // Tables that a vCPU has used may only be written by the guest itself (monitor.h): from now on writes are
  // queued.
  void set_live() { live_ = true; }
  bool pending() const { return !dirty_.empty() || !queue_.empty(); }
  // Stores that bring the tables up to date, at most kMaxTableWrites; call until empty. Sets `*rebuild`
  // instead when the pool is used up: the caller then makes KVM forget the monitor slot, calls rebuild() and
  // recreates the slot.
  std::vector<TableWrite> take_writes(bool* rebuild);
  void rebuild();
  // Another whenever tables have changed that vCPUs have used: each must reload CR3 before it goes on.
  uint64_t generation() const { return generation_; }

 private:
  static constexpr uint64_t kLargePage = 2 << 20;
  using Pages = std::bitset<kLargePage / kPageSize>;
  // Of a region of kLargePage.
  struct Rights {
    Pages executable, read_only;
    uint64_t table = 0;  // offset of its 4 KiB table in the monitor; 0: one large page
  };

  std::byte* monitor_;
  const AddressSpace& space_;
  const WrittenCode& written_;
  bool live_ = false;
  uint64_t generation_ = 0;
  uint64_t next_table_ = layout::kTablePool;
  struct Chunk {
    uint64_t guest_physical, directory;  // offset of its page directory in the monitor
  };
  std::map<uint64_t, Chunk> chunks_;  // by start
  std::map<uint64_t, uint64_t>
      pdpts_;  // offsets by number in the PML4; the windows have theirs from the start
  std::map<uint64_t, Rights> rights_;  // by 2 MiB-aligned start; absent: none of it is executable
  std::set<uint64_t> dirty_;           // 2 MiB-aligned starts to look at again
  std::vector<TableWrite> queue_;

  uint64_t new_table() {
    const uint64_t table = next_table_;
    next_table_ += kPageSize;
    return table;
  }
  void build_fixed();
  uint64_t pdpt_of(uint64_t address);
  void build_directory(uint64_t start, Chunk& chunk);
  void store(uint64_t offset, uint64_t value);
  Rights wanted(uint64_t region) const;
  static uint64_t page_entry(uint64_t address, const Chunk& chunk, const Rights& rights);
  uint64_t region_entry(uint64_t region, const Chunk& chunk, Rights& rights);
  void update(uint64_t region);
};

}  // namespace aftercheck::kvm
