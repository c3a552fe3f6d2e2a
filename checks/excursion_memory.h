// The guest's memory as a check sees and changes it, and how all of it is undone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "machine/address_space.h"
#include "machine/vcpu.h"

namespace aftercheck {

// A check works on the guest's memory itself, since guest addresses are host addresses. What makes that a
// throw-away copy: what it stores to is remembered as it was, and gets its old contents back.
//
// *Ghost* memory lives from one excursion to the next. The ghost heap is in kGhostWindow, where the guest has
// nothing. Ghost variables are in the guest's own pages: their contents are there while an excursion can see
// them, and taken away again with its end, so that in between all memory is exactly the run's.
class ExcursionMemory : private SpaceObserver {
 public:
  // `machine` is of `space`, and either traps stores and has a view, or journals them. Both must outlive
  // this.
  static std::unique_ptr<ExcursionMemory> create(AddressSpace& space, Machine& machine);
  ~ExcursionMemory() override;
  ExcursionMemory(const ExcursionMemory&) = delete;
  ExcursionMemory& operator=(const ExcursionMemory&) = delete;

  // The bytes of a module's ghost variables, while it is mapped. Forgetting also forgets their contents.
  virtual void add_ghost_variables(Range bytes) = 0;
  virtual void forget_ghost_variables(Range bytes) = 0;

  // Between excursions: from now on they are on this machine, one of the same kind and of the same space.
  // The old one may be gone already. Ghost memory stays as it is.
  void move_to(Machine& machine);

  virtual void begin() = 0;
  // After a fault: true when the access may be tried again.
  virtual bool open(uint64_t address, Access access) = 0;
  // Undoes everything. True where something had been written.
  virtual bool end() = 0;

  // Has the excursion been stopped for having written as much as one may, 1 GiB?
  virtual bool full() const = 0;
  // Has any excursion written ghost memory?
  bool ghost_used() const { return ghost_used_; }

  // Zeroed memory for the ghost heap, or for the rest of this excursion; nullopt when there is no more.
  std::optional<uint64_t> map_ghost(uint64_t length);
  std::optional<uint64_t> map_scratch(uint64_t length);
  bool is_scratch(uint64_t address, uint64_t length) const;

  // On the check's behalf, with its permissions. False when some byte may not be accessed.
  virtual bool read(uint64_t address, void* destination, size_t size) = 0;
  virtual bool write(uint64_t address, const void* source, size_t size) = 0;

 protected:
  explicit ExcursionMemory(AddressSpace& space);

  AddressSpace& space_;
  bool ghost_used_ = false;

  // Of the guest's mappings: where it may change its code without anybody's notice.
  const std::vector<Range>& writable_code();
  // Nothing is open or shown on the new machine but what the guest has mapped, of which remapped() follows.
  virtual void moved_to(Machine& machine) = 0;
  // The guest's mappings there have changed; the machine knows.
  virtual void remapped(Range) {}

  // Of kGhostWindow: what is mapped so far. The ghost heap grows upwards in the first part, throw-away memory
  // in the rest.
  Range ghost_heap() const;
  Range scratch() const;
  // Memory there that is new.
  virtual void show(Range range) = 0;
  // The excursion's throw-away memory is zeros again, and free. It stays mapped: the next excursion is likely
  // to want it.
  void discard_scratch();

 private:
  uint64_t ghost_end_, scratch_end_, scratch_visible_;
  std::vector<Range> writable_code_;
  bool mappings_changed_ = true;

  void on_map(Range range, int prot) override;
  void on_unmap(Range range) override { on_map(range, 0); }
  void on_protect(Range range, int prot) override { on_map(range, prot); }
  void on_code_change(Range) override {}
};

}  // namespace aftercheck
