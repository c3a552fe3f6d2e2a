#include "checks/journaled_memory.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/guarded_copy.h"
#include "machine/fault_address.h"

namespace aftercheck {
namespace {

std::byte* pointer(uint64_t address) { return reinterpret_cast<std::byte*>(address); }

bool overlap(Range a, Range b) { return a.start < b.end && b.start < a.end; }

Range common(Range a, Range b) { return {std::max(a.start, b.start), std::min(a.end, b.end)}; }

Range around(Range a, Range b) {
  if (a.size() == 0) return b;
  if (b.size() == 0) return a;
  return {std::min(a.start, b.start), std::max(a.end, b.end)};
}

}  // namespace

JournaledMemory::JournaledMemory(AddressSpace& space, Machine& machine, StoreJournal& journal)
    : ExcursionMemory(space), machine_(&machine), journal_(&journal) {}

void JournaledMemory::add_ghost_variables(Range bytes) {
  ghosts_.push_back(
      {.bytes = bytes, .kept = {}, .contents = {}, .program = {}, .stored = {}, .after = {}, .seen = {}});
  around_ghosts_ = around(around_ghosts_, bytes);
}

void JournaledMemory::forget_ghost_variables(Range bytes) {
  std::erase_if(ghosts_, [bytes](const Ghosts& ghosts) { return overlap(ghosts.bytes, bytes); });
  around_ghosts_ = {};
  for (const Ghosts& ghosts : ghosts_) around_ghosts_ = around(around_ghosts_, ghosts.bytes);
}

void JournaledMemory::moved_to(Machine& machine) {
  machine_ = &machine;
  journal_ = machine.journal();
}

// --- one excursion ---

void JournaledMemory::begin() {
  for (const Range& range : writable_code()) machine_->code_changed(range);
  for (Ghosts& ghosts : ghosts_) {
    if (ghosts.kept.size() == 0) continue;
    std::byte* const memory = pointer(ghosts.kept.start);
    if (!guarded_copy(ghosts.program.data(), memory, ghosts.program.size()) ||
        !guarded_copy(memory, ghosts.contents.data(), ghosts.contents.size()))
      fail(ErrorKind::io, "the ghost variables at {:#x} can't be accessed", ghosts.kept.start);
  }
}

bool JournaledMemory::end() {
  const bool written = !journal_->empty();
  if (written) undo();
  for (const Ghosts& ghosts : ghosts_)
    if (ghosts.kept.size() != 0)
      std::memcpy(pointer(ghosts.kept.start), ghosts.program.data(), ghosts.program.size());
  discard_scratch();
  return written;
}

// All but what belongs to ghost variables, whose new contents are kept.
void JournaledMemory::undo() {
  for (Ghosts& ghosts : ghosts_) ghosts.stored = {};
  changed_code_.clear();
  const Range looked_at = around_ghosts_;
  journal_->visit([&](Range changed) {
    if (!overlap(changed, looked_at)) return;
    for (Ghosts& ghosts : ghosts_)
      if (overlap(changed, ghosts.bytes))
        ghosts.stored = around(ghosts.stored, common(changed, ghosts.bytes));
  });
  for (const Range& range : writable_code())
    journal_->visit([&](Range changed) {
      if (overlap(changed, range)) changed_code_.push_back(changed);
    });
  for (Ghosts& ghosts : ghosts_) {
    if (ghosts.stored.size() == 0) continue;
    ghosts.after = around(ghosts.kept, ghosts.stored);
    const std::byte* const memory = pointer(ghosts.after.start);
    ghosts.seen.assign(memory, memory + ghosts.after.size());
  }
  journal_->undo();
  for (const Range& range : changed_code_) machine_->code_changed(range);
  for (Ghosts& ghosts : ghosts_) {
    if (ghosts.stored.size() == 0) continue;
    std::byte* const memory = pointer(ghosts.after.start);
    if (std::memcmp(memory, ghosts.seen.data(), ghosts.seen.size()) == 0) continue;
    ghost_used_ = true;
    // What is kept from now on, and was not before, is the program's own there now.
    std::vector<std::byte> program(memory, memory + ghosts.after.size());
    if (ghosts.kept.size() != 0)
      std::memcpy(&program[ghosts.kept.start - ghosts.after.start], ghosts.program.data(),
                  ghosts.program.size());
    ghosts.program = std::move(program);
    ghosts.contents = ghosts.seen;
    ghosts.kept = ghosts.after;
  }
}

bool JournaledMemory::can_access(uint64_t address, size_t size, Access access) {
  if (size > UINT64_MAX - address) return false;
  const Range bytes{address, address + size};
  for (const Range& own : {ghost_heap(), scratch()})
    if (bytes.start >= own.start && bytes.end <= own.end) return true;
  return !first_inaccessible(space_, address, size, access);
}

bool JournaledMemory::read(uint64_t address, void* destination, size_t size) {
  return can_access(address, size, Access::read) && guarded_copy(destination, pointer(address), size);
}

bool JournaledMemory::write(uint64_t address, const void* source, size_t size) {
  return can_access(address, size, Access::write) && journal_->note(address, size) && !journal_->full() &&
         guarded_copy(pointer(address), source, size);
}

}  // namespace aftercheck
