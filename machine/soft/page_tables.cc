#include "machine/soft/page_tables.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace aftercheck::soft {
namespace {

// Page-table entry bits (SDM vol. 3, table 4-20). Accessed and dirty are set from the start, so that the
// walker never writes. Bit 9 is ignored by the MMU: ours for "may be executed", because this Unicorn offers
// no NX.
constexpr uint64_t kPresent = 1 << 0, kWritable = 1 << 1, kUser = 1 << 2, kAccessed = 1 << 5, kDirty = 1 << 6;
constexpr uint64_t kLarge = 1 << 7, kExecutable = 1 << 9;
constexpr uint64_t kTable = kPresent | kWritable | kUser | kAccessed;
constexpr uint64_t kAddressMask = 0x000f'ffff'ffff'f000;
constexpr unsigned kEntries = 512;
constexpr int kTopLevel = 3, kLargeLevel = 1;  // level 0: 4 KiB pages, 1: 2 MiB, 2: 1 GiB, 3: 512 GiB

// Enough for all windows mapped in 4 KiB pages throughout, and some.
constexpr uint64_t kTables =
    (kMainWindow.size() + kLowWindow.size() + kGhostWindow.size()) / (kPageSize * kEntries) + 4 * kEntries;

static_assert(kTables * kPageSize <= kTablesRange.size());

constexpr int shift(int level) { return 12 + 9 * level; }
constexpr uint64_t span(int level) { return uint64_t{1} << shift(level); }
constexpr unsigned index(uint64_t address, int level) {
  return static_cast<unsigned>(address >> shift(level)) % kEntries;
}

uint64_t flags_of(int prot) {
  if (prot == 0) return 0;
  uint64_t flags = kPresent | kUser | kAccessed | kDirty;
  if ((prot & PROT_WRITE) != 0) flags |= kWritable;
  if ((prot & PROT_EXEC) != 0) flags |= kExecutable;
  return flags;
}

}  // namespace

uint64_t PageTables::memory_size() { return kTables * kPageSize; }

PageTables::PageTables() {
  memory_ = mmap(nullptr, memory_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
  if (memory_ == MAP_FAILED)
    fail(ErrorKind::host_lacks,
         "can't reserve {} bytes for the soft vCPU's page tables: {}; is the address space "
         "limited (ulimit -v)?",
         memory_size(), errno_text(errno));
}

PageTables::~PageTables() { munmap(memory_, memory_size()); }

uint64_t* PageTables::table(uint64_t entry) const {
  return static_cast<uint64_t*>(memory_) + ((entry & kAddressMask) - kPhysical) / sizeof(uint64_t);
}

uint64_t PageTables::new_table(uint64_t fill) {
  uint64_t number = 0;
  if (!free_.empty()) {
    number = free_.back();
    free_.pop_back();
  } else {
    if (used_ == kTables) fail(ErrorKind::internal, "the soft vCPU's page tables are full");
    number = used_++;
  }
  const uint64_t entry = (kPhysical + number * kPageSize) | kTable;
  std::fill_n(table(entry), kEntries, fill);
  return entry;
}

void PageTables::free_tree(uint64_t entry, int level) {
  if ((entry & kPresent) == 0 || (entry & kLarge) != 0 || level == 0) return;
  if (level > 1)
    for (unsigned i = 0; i < kEntries; ++i) free_tree(table(entry)[i], level - 1);
  free_.push_back(((entry & kAddressMask) - kPhysical) / kPageSize);
}

void PageTables::set_level(uint64_t* entries, int level, Range range, uint64_t flags) {
  while (range.start < range.end) {
    uint64_t& entry = entries[index(range.start, level)];
    const uint64_t next = (range.start & ~(span(level) - 1)) + span(level);
    const Range part{range.start, std::min(next, range.end)};
    range.start = part.end;
    const bool whole = part.size() == span(level);
    if (level == 0 || (whole && (flags == 0 || level == kLargeLevel))) {
      free_tree(entry, level);
      entry = flags == 0 ? 0 : flags | (level == kLargeLevel ? kLarge : 0);
      continue;
    }
    if ((entry & kPresent) == 0) {
      if (flags == 0) continue;
      entry = new_table(0);
    } else if ((entry & kLarge) != 0) {
      entry = new_table(entry & ~kLarge);
    }
    set_level(table(entry), level - 1, part, flags);
  }
}

void PageTables::set(Range range, int prot, uint64_t valid_end) {
  auto* root = static_cast<uint64_t*>(memory_);
  const uint64_t valid = std::clamp(valid_end, range.start, range.end);
  set_level(root, kTopLevel, {range.start, valid}, flags_of(prot));
  set_level(root, kTopLevel, {valid, range.end}, 0);
}

uint64_t PageTables::entry_for(uint64_t address) const {
  if (address >> 47 != 0) return 0;  // the guest owns only the lower half (SDM vol. 1, 3.3.7.1)
  const uint64_t* entries = static_cast<const uint64_t*>(memory_);
  for (int level = kTopLevel;; --level) {
    const uint64_t entry = entries[index(address, level)];
    if (level == 0 || (entry & kPresent) == 0 || (entry & kLarge) != 0) return entry;
    entries = table(entry);
  }
}

bool PageTables::allows(uint64_t address, Access access) const {
  const uint64_t entry = entry_for(address);
  if ((entry & kPresent) == 0 || (entry & kUser) == 0) return false;
  if (access == Access::write) return (entry & kWritable) != 0;
  return access == Access::read || (entry & kExecutable) != 0;
}

std::optional<uint64_t> PageTables::first_forbidden(uint64_t address, uint64_t size, Access access) const {
  for (uint64_t done = 0; done < size;) {
    const uint64_t at = address + done;
    if (!allows(at, access)) return at;
    done += kPageSize - at % kPageSize;
  }
  return std::nullopt;
}

uint64_t* PageTables::leaf(uint64_t address) {
  auto* entries = static_cast<uint64_t*>(memory_);
  for (int level = kTopLevel; level > 0; --level) {
    uint64_t& entry = entries[index(address, level)];
    if ((entry & kPresent) == 0)
      entry = new_table(0);
    else if ((entry & kLarge) != 0)
      entry = new_table(entry & ~kLarge);
    entries = table(entry);
  }
  return &entries[index(address, 0)];
}

PageTables::Opened PageTables::open(uint64_t page, bool user) {
  uint64_t* entry = leaf(page);
  const Opened opened{page, *entry};
  *entry |= kPresent | kAccessed | kDirty | (user ? kUser : kWritable);
  return opened;
}

void PageTables::close(Opened opened) { *leaf(opened.page) = opened.entry; }

}  // namespace aftercheck::soft
