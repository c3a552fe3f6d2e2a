#include "checks/excursion_memory.h"

#include <sys/mman.h>

#include <cerrno>

#include "base/error.h"
#include "checks/journaled_memory.h"
#include "checks/paged_memory.h"

namespace aftercheck {
namespace {

constexpr uint64_t kScratchStart = kGhostWindow.start + (uint64_t{2} << 30);

bool host_map(Range range, int prot) {
  return mmap(reinterpret_cast<void*>(range.start), range.size(), prot,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

}  // namespace

std::unique_ptr<ExcursionMemory> ExcursionMemory::create(AddressSpace& space, Machine& machine) {
  if (StoreJournal* journal = machine.journal())
    return std::make_unique<JournaledMemory>(space, machine, *journal);
  return std::make_unique<PagedMemory>(space, machine);
}

ExcursionMemory::ExcursionMemory(AddressSpace& space)
    : space_(space),
      ghost_end_(kGhostWindow.start),
      scratch_end_(kScratchStart),
      scratch_visible_(kScratchStart) {
  space_.add_observer(this);
}

ExcursionMemory::~ExcursionMemory() {
  space_.remove_observer(this);
  host_map(kGhostWindow, PROT_NONE);
}

// The machine has to hear of changes first.
void ExcursionMemory::move_to(Machine& machine) {
  space_.remove_observer(this);
  moved_to(machine);
  space_.add_observer(this);
}

void ExcursionMemory::on_map(Range range, int) {
  mappings_changed_ = true;
  remapped(range);
}

const std::vector<Range>& ExcursionMemory::writable_code() {
  if (!mappings_changed_) return writable_code_;
  writable_code_.clear();
  for (const auto& [start, mapping] : space_.mappings())
    if ((mapping.prot & PROT_EXEC) != 0 && ((mapping.prot & PROT_WRITE) != 0 || mapping.shared))
      writable_code_.push_back({start, mapping.end});
  mappings_changed_ = false;
  return writable_code_;
}

Range ExcursionMemory::ghost_heap() const { return {kGhostWindow.start, ghost_end_}; }
Range ExcursionMemory::scratch() const { return {kScratchStart, scratch_visible_}; }

std::optional<uint64_t> ExcursionMemory::map_ghost(uint64_t length) {
  if (length == 0 || length > kScratchStart - ghost_end_) return std::nullopt;
  const Range range{ghost_end_, ghost_end_ + page_up(length)};
  if (range.end > kScratchStart || !host_map(range, PROT_READ | PROT_WRITE)) return std::nullopt;
  ghost_end_ = range.end;
  show(range);
  ghost_used_ = true;
  return range.start;
}

std::optional<uint64_t> ExcursionMemory::map_scratch(uint64_t length) {
  if (length == 0 || length > kGhostWindow.end - scratch_end_) return std::nullopt;
  const Range range{scratch_end_, scratch_end_ + page_up(length)};
  if (range.end > scratch_visible_) {
    const Range more{scratch_visible_, range.end};
    if (more.end > kGhostWindow.end || !host_map(more, PROT_READ | PROT_WRITE)) return std::nullopt;
    scratch_visible_ = more.end;
    show(more);
  }
  scratch_end_ = range.end;
  return range.start;
}

bool ExcursionMemory::is_scratch(uint64_t address, uint64_t length) const {
  return address >= kScratchStart && address <= scratch_end_ && length <= scratch_end_ - address;
}

void ExcursionMemory::discard_scratch() {
  if (scratch_end_ == kScratchStart) return;
  if (madvise(reinterpret_cast<void*>(kScratchStart), scratch_end_ - kScratchStart, MADV_DONTNEED) != 0)
    fail(ErrorKind::io, "throw-away memory can't be released: {}", errno_text(errno));
  scratch_end_ = kScratchStart;
}

}  // namespace aftercheck
