// The guest's memory for checks on a machine that traps stores: whole pages are set aside.
#pragma once

#include <sys/mman.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "checks/excursion_memory.h"

namespace aftercheck {

// The machine shows every writable page read-only, the first store to one is a fault, and then the page is
// set aside and opened. Afterwards it gets its old contents back. Pages stay open while they keep being
// written, so that excursions in a row have no faults; they are set aside at each start.
//
// Ghost variables: their contents are put into their pages when an excursion touches them.
class PagedMemory final : public ExcursionMemory {
 public:
  // `machine` is of `space`, traps stores and has a view. Both must outlive this.
  PagedMemory(AddressSpace& space, Machine& machine);

  void add_ghost_variables(Range bytes) override;
  void forget_ghost_variables(Range bytes) override;
  void begin() override;
  bool open(uint64_t address, Access access) override;
  bool end() override;
  bool full() const override { return full_; }
  bool read(uint64_t address, void* destination, size_t size) override;
  bool write(uint64_t address, const void* source, size_t size) override;

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

  Machine* machine_;
  std::vector<std::unique_ptr<Page>> open_;  // in the order in which they were set aside
  std::map<uint64_t, GhostPage> ghost_;      // by address of the page
  // Of pages that were closed and had to be opened again, by address: stores that change nothing look idle.
  std::unordered_map<uint64_t, unsigned> patience_;
  bool full_ = false;

  void show(Range range) override { machine_->show(range, PROT_READ | PROT_WRITE); }
  void moved_to(Machine& machine) override;
  void remapped(Range range) override;
  void hide_ghosts(Range range);
  void set_aside(Page& page);
  bool put_back(Page& page);
  void close_idle();
  bool can_access(uint64_t address, size_t size, Access access);
};

}  // namespace aftercheck
