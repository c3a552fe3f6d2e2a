#include "checks/paged_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/guarded_copy.h"

namespace aftercheck {
namespace {

// Pages that one excursion may write: 1 GiB.
constexpr size_t kMostPages = size_t{1} << 18;
// An open page costs two copies in each excursion (some 0.2 us), to open a closed one costs a fault (some
// 5 us), to close one a TLB flush (some 20 us). So a page is kept open over this many excursions that do not
// change it, fewer where there are many such pages; twice as many each time that it had to be opened again.
constexpr unsigned kFirstPatience = 64, kMostPatience = 1 << 16;
constexpr size_t kIdleCopies = 2048;
// Open pages that are few enough not to ask what their copies cost.
constexpr size_t kFewPages = 16;
constexpr size_t kMostRemembered = 4096;

std::byte* pointer(uint64_t address) { return reinterpret_cast<std::byte*>(address); }

}  // namespace

PagedMemory::PagedMemory(AddressSpace& space, Machine& machine)
    : ExcursionMemory(space), machine_(&machine) {}

// `machine_` has taken back what was opened there.
void PagedMemory::remapped(Range range) {
  std::erase_if(open_, [&](const auto& page) { return range.contains(page->address); });
  hide_ghosts(range);
}

// Pages with ghost contents are not to be seen as the guest has them.
void PagedMemory::hide_ghosts(Range range) {
  for (auto it = ghost_.lower_bound(range.start); it != ghost_.end() && it->first < range.end; ++it)
    if (!it->second.contents.empty()) machine_->show({it->first, it->first + kPageSize}, PROT_NONE);
}

void PagedMemory::add_ghost_variables(Range bytes) {
  for (uint64_t page = page_down(bytes.start); page < bytes.end; page += kPageSize)
    ghost_[page] = {std::max(page, bytes.start), std::min(page + kPageSize, bytes.end), {}};
}

void PagedMemory::forget_ghost_variables(Range bytes) {
  const Range pages{page_down(bytes.start), page_up(bytes.end)};
  ghost_.erase(ghost_.lower_bound(pages.start), ghost_.lower_bound(pages.end));
  std::erase_if(open_, [&](const auto& page) { return pages.contains(page->address); });
}

void PagedMemory::moved_to(Machine& machine) {
  machine_ = &machine;
  for (const Range& range : {ghost_heap(), scratch()})
    if (range.size() != 0) show(range);
}

// --- one excursion ---

void PagedMemory::set_aside(Page& page) {
  if (!guarded_copy(page.saved.data(), pointer(page.address), kPageSize))
    fail(ErrorKind::io, "the guest's page at {:#x} can't be read", page.address);
  if (!page.ghost) return;
  const GhostPage& ghost = ghost_.at(page.address);
  std::memcpy(pointer(ghost.first), ghost.contents.data(), ghost.contents.size());
}

bool PagedMemory::put_back(Page& page) {
  std::byte* memory = pointer(page.address);
  bool written = false;
  if (const auto found = ghost_.find(page.address); found != ghost_.end()) {
    GhostPage& ghost = found->second;
    const std::byte* now = pointer(ghost.first);
    const size_t size = ghost.last - ghost.first;
    const std::byte* before = page.ghost ? ghost.contents.data() : &page.saved[ghost.first - page.address];
    if (std::memcmp(now, before, size) != 0) {
      written = true;
      ghost.contents.assign(now, now + size);
      page.ghost = ghost_used_ = true;
    }
  }
  if (std::memcmp(memory, page.saved.data(), kPageSize) != 0) {
    written = written || !page.ghost;
    std::memcpy(memory, page.saved.data(), kPageSize);
    if (page.runs) machine_->code_changed({page.address, page.address + kPageSize});
  }
  page.idle = written ? 0 : page.idle + 1;
  return written;
}

void PagedMemory::begin() {
  full_ = false;
  for (const Range& range : writable_code()) machine_->code_changed(range);
  for (const auto& page : open_) set_aside(*page);
}

bool PagedMemory::end() {
  bool written = false;
  // Backwards: two pages may be the same memory, and then the one set aside first has the run's contents.
  for (auto it = open_.rbegin(); it != open_.rend(); ++it) written |= put_back(**it);
  close_idle();
  discard_scratch();
  return written;
}

void PagedMemory::close_idle() {
  const auto most = open_.size() <= kFewPages
                        ? kMostPatience
                        : static_cast<unsigned>(std::max<size_t>(kIdleCopies / open_.size(), 1));
  const auto idle = [&](const auto& page) { return page->idle > std::min(page->patience, most); };
  if (std::none_of(open_.begin(), open_.end(), idle)) return;
  if (patience_.size() > kMostRemembered) patience_.clear();
  std::erase_if(open_, [&](const auto& page) {
    if (!idle(page)) return false;
    patience_[page->address] = std::min(2 * page->patience, kMostPatience);
    const Mapping* mapping = space_.find(page->address);
    const bool hidden = mapping == nullptr || page->ghost;
    machine_->show({page->address, page->address + kPageSize},
                   hidden ? PROT_NONE : (mapping->prot & ~PROT_WRITE) | PROT_READ);
    return true;
  });
}

bool PagedMemory::open(uint64_t address, Access access) {
  const uint64_t start = page_down(address);
  const Mapping* mapping = space_.find(address);
  if (mapping == nullptr) return false;
  const auto ghost = ghost_.find(start);
  const bool hidden = ghost != ghost_.end() && !ghost->second.contents.empty();
  const bool writable = (mapping->prot & PROT_WRITE) != 0;
  if (!hidden && (access != Access::write || !writable)) return false;
  // Open already, or behind the end of its file.
  if (machine_->allows(start, Access::write) || (!hidden && !machine_->allows(start, Access::read)))
    return false;
  if (open_.size() >= kMostPages) {
    full_ = true;
    return false;
  }
  auto page = std::make_unique<Page>();
  page->address = start;
  page->ghost = hidden;
  page->runs = (mapping->prot & PROT_EXEC) != 0;
  const auto patience = patience_.find(start);
  page->patience = patience == patience_.end() ? kFirstPatience : patience->second;
  set_aside(*page);
  open_.push_back(std::move(page));
  machine_->show({start, start + kPageSize}, mapping->prot);
  return true;
}

bool PagedMemory::can_access(uint64_t address, size_t size, Access access) {
  if (size > UINT64_MAX - address) return false;
  for (uint64_t at = address; at < address + size; at = page_down(at) + kPageSize)
    if (!machine_->allows(at, access) && !open(at, access)) return false;
  return true;
}

bool PagedMemory::read(uint64_t address, void* destination, size_t size) {
  return can_access(address, size, Access::read) && guarded_copy(destination, pointer(address), size);
}

bool PagedMemory::write(uint64_t address, const void* source, size_t size) {
  return can_access(address, size, Access::write) && guarded_copy(pointer(address), source, size);
}

}  // namespace aftercheck
