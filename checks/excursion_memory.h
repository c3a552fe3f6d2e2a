// The guest's memory as a check sees and changes it, and how all of it is undone.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "machine/address_space.h"
#include "machine/vcpu.h"

namespace aftercheck {

// A check works on the guest's memory itself, since guest addresses are host addresses. What makes that a
// throw-away copy: its machine shows every writable page read-only, the first store to one is a fault, and
// then the page is set aside and opened. Afterwards it gets its old contents back. Pages stay open while they
// keep being written, so that excursions in a row have no faults; they are set aside at each start.
//
// *Ghost* memory lives from one excursion to the next. The ghost heap is in kGhostWindow, where the guest has
// nothing. Ghost variables are in the guest's own pages: their contents are put there when an excursion
// touches them, and taken away again with its end, so that in between all memory is exactly the run's.
class ExcursionMemory : private SpaceObserver {
 public:
  // `machine` is of `space`, traps stores and has a view. Both must outlive this.
  ExcursionMemory(AddressSpace& space, Machine& machine);
  ~ExcursionMemory();
  ExcursionMemory(const ExcursionMemory&) = delete;
  ExcursionMemory& operator=(const ExcursionMemory&) = delete;

  // The bytes of a module's ghost variables, while it is mapped. Forgetting also forgets their contents.
  void add_ghost_variables(Range bytes);
  void forget_ghost_variables(Range bytes);

  void begin();
  // After a fault: true when the access may be tried again.
  bool open(uint64_t address, Access access);
  // Undoes everything.
  void end();

  // Did open() refuse because the excursion has written as much as one may?
  bool full() const { return full_; }
  // Has any excursion written ghost memory?
  bool ghost_used() const { return ghost_used_; }

  // Zeroed memory for the ghost heap, or for the rest of this excursion; nullopt when there is no more.
  std::optional<uint64_t> map_ghost(uint64_t length);
  std::optional<uint64_t> map_scratch(uint64_t length);
  bool is_scratch(uint64_t address, uint64_t length) const;

  // On the check's behalf, with its permissions. False when some byte may not be accessed.
  bool read(uint64_t address, void* destination, size_t size);
  bool write(uint64_t address, const void* source, size_t size);

 private:
  // An open page, set aside.
  struct Page {
    uint64_t address = 0;
    bool ghost = false;     // has ghost variables in it that were written some time
    bool runs = false;      // may hold code
    unsigned idle = 0;      // excursions since its contents were last changed
    unsigned patience = 0;  // how many of them it stays open
    std::array<std::byte, kPageSize> saved{};
  };
  struct GhostPage {
    uint64_t first = 0, last = 0;  // the ghost variables' part of it, [first, last)
    // Contents of that part; empty while no excursion has written it: then it is as the program has it.
    std::vector<std::byte> contents;
  };

  AddressSpace& space_;
  Machine& machine_;
  std::vector<std::unique_ptr<Page>> open_;  // in the order in which they were set aside
  std::map<uint64_t, GhostPage> ghost_;      // by address of the page
  // Of pages that were closed and had to be opened again, by address: stores that change nothing look idle.
  std::unordered_map<uint64_t, unsigned> patience_;
  uint64_t ghost_end_ = 0, scratch_end_ = 0, scratch_visible_ = 0;
  bool full_ = false, ghost_used_ = false;
  // Where the guest may change its code without anybody's notice.
  std::vector<Range> writable_code_;
  bool mappings_changed_ = true;

  void on_map(Range range, int prot) override;
  void on_unmap(Range range) override;
  void on_protect(Range range, int prot) override;
  void on_code_change(Range range) override;

  void closed(Range range);
  void hide_ghosts(Range range);
  void find_writable_code();
  void set_aside(Page& page);
  void put_back(Page& page);
  void close_idle();
  bool can_access(uint64_t address, size_t size, Access access);
};

}  // namespace aftercheck
