// The guest's memory for checks on a machine that journals stores: what a check has overwritten is put back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "checks/excursion_memory.h"

namespace aftercheck {

// Nothing but stores costs anything, so an excursion that stores little takes little. Of ghost variables what
// some check has stored to is put in place at each start.
class JournaledMemory final : public ExcursionMemory {
 public:
  // `machine` is of `space`, and has the journal.
  JournaledMemory(AddressSpace& space, Machine& machine, StoreJournal& journal);

  void add_ghost_variables(Range bytes) override;
  void forget_ghost_variables(Range bytes) override;
  void begin() override;
  bool open(uint64_t, Access) override { return false; }
  bool end() override;
  bool full() const override { return journal_->full(); }
  bool read(uint64_t address, void* destination, size_t size) override;
  bool write(uint64_t address, const void* source, size_t size) override;

 private:
  struct Ghosts {
    Range bytes;
    Range kept{};                     // of them: stored to by some check; empty: none
    std::vector<std::byte> contents;  // of those, as checks see them
    std::vector<std::byte> program;   // of those, the program's, since an excursion began
    // Of the excursion that ends: what it has stored to, what is to be kept, and how that looks.
    Range stored{}, after{};
    std::vector<std::byte> seen;
  };

  Machine* machine_;
  StoreJournal* journal_;
  std::vector<Ghosts> ghosts_;
  Range around_ghosts_{};  // all of them lie in it

  // Of the excursion that ends: code that it has stored to.
  std::vector<Range> changed_code_;

  void show(Range) override {}
  void moved_to(Machine& machine) override;
  void undo();
  bool can_access(uint64_t address, size_t size, Access access);
};

}  // namespace aftercheck
