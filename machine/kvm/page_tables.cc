#include "machine/kvm/page_tables.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace aftercheck::kvm {
namespace {

// Page-table entry bits (SDM vol. 3, table 4-20). Accessed and dirty are set beforehand so that nothing
// writes tables.
constexpr uint64_t kPresent = 1, kWritable = 2, kUser = 4, kAccessed = 0x20, kDirty = 0x40, kLarge = 0x80,
                   kNoExecute = uint64_t{1} << 63;
constexpr uint64_t kTable = kPresent | kWritable | kUser | kAccessed;
constexpr uint64_t kUserPage = kPresent | kWritable | kUser | kAccessed | kDirty;
constexpr uint64_t kMonitorPage = kPresent | kWritable | kAccessed | kDirty;
constexpr uint64_t kEntries = 512;
// Room in the pool for the directories of all chunks there can be, and the tables above them.
constexpr uint64_t kForChunks = 1024 * kPageSize;

// Entries of a table that are changed where they are; for more a new table is as cheap.
constexpr size_t kMostInPlace = 16;

constexpr uint64_t index(uint64_t address, unsigned shift) { return address >> shift & (kEntries - 1); }

}  // namespace

PageTables::PageTables(std::byte* monitor, const AddressSpace& space, const WrittenCode& written)
    : monitor_(monitor), space_(space), written_(written) {
  build_fixed();
}

void PageTables::build_fixed() {
  std::memset(monitor_ + layout::kPml4, 0, layout::kPtMonitor + kPageSize - layout::kPml4);
  pdpts_ = {{index(kLowWindow.start, 39), layout::kPdptLow},
            {index(kMainWindow.start, 39), layout::kPdptMain}};
  auto put = [&](uint64_t table, uint64_t slot, uint64_t value) {
    std::memcpy(monitor_ + table + slot * 8, &value, sizeof value);
  };
  put(layout::kPml4, index(kLowWindow.start, 39), layout::kPdptLow | kTable);
  put(layout::kPml4, index(kMainWindow.start, 39), layout::kPdptMain | kTable);
  put(layout::kPml4, index(kMonitorBase, 39), layout::kPdptMonitor | kTable);
  put(layout::kPdptMonitor, index(kMonitorBase, 30), layout::kPdMonitor | kTable);
  put(layout::kPdMonitor, 0, layout::kPtMonitor | kTable);
  for (uint64_t page = 0; page < kEntries; ++page)
    put(layout::kPtMonitor, page, page * kPageSize | kMonitorPage);
  put(layout::kPtMonitor, layout::kSyscallStub / kPageSize,
      layout::kSyscallStub | kPresent | kUser | kAccessed | kDirty);
  for (uint64_t at = kLargePage; at < kMonitorSize; at += kLargePage)
    put(layout::kPdMonitor, at / kLargePage, at | kMonitorPage | kLarge);
}

void PageTables::store(uint64_t offset, uint64_t value) {
  if (live_)
    queue_.push_back({kMonitorBase + offset, value});
  else
    std::memcpy(monitor_ + offset, &value, sizeof value);
}

// A table of claimed memory's is made when it is needed.
uint64_t PageTables::pdpt_of(uint64_t address) {
  const uint64_t number = index(address, 39);
  if (const auto found = pdpts_.find(number); found != pdpts_.end()) return found->second;
  const uint64_t table = new_table();
  std::memset(monitor_ + table, 0, kPageSize);  // not yet in use, as a new directory
  pdpts_.emplace(number, table);
  store(layout::kPml4 + number * 8, table | kTable);
  return table;
}

void PageTables::build_directory(uint64_t start, Chunk& chunk) {
  chunk.directory = new_table();
  Rights none;
  for (uint64_t slot = 0; slot < kEntries; ++slot) {
    const uint64_t region = start + slot * kLargePage;
    uint64_t value = 0;
    if (in_windows(region, kLargePage) || region < kLowWindow.start)
      value = region_entry(region, chunk, none);
    std::memcpy(monitor_ + chunk.directory + slot * 8, &value,
                sizeof value);  // not yet in use: a plain write will do
  }
}

void PageTables::add_chunk(uint64_t start, uint64_t guest_physical) {
  Chunk chunk{guest_physical, 0};
  build_directory(start, chunk);
  chunks_.emplace(start, chunk);
  store(pdpt_of(start) + index(start, 30) * 8, chunk.directory | kTable);
}

void PageTables::changed(Range range, bool now_executable) {
  const uint64_t first = range.start & ~(kLargePage - 1);
  if (now_executable) {
    for (uint64_t region = first; region < range.end; region += kLargePage) dirty_.insert(region);
    return;
  }
  for (auto it = rights_.lower_bound(first); it != rights_.end() && it->first < range.end; ++it)
    dirty_.insert(it->first);
}

PageTables::Rights PageTables::wanted(uint64_t region) const {
  Rights rights;
  const auto& mappings = space_.mappings();
  auto it = mappings.upper_bound(region);
  if (it != mappings.begin()) --it;
  for (; it != mappings.end() && it->second.start < region + kLargePage; ++it) {
    const Mapping& mapping = it->second;
    if ((mapping.prot & PROT_EXEC) == 0 || mapping.end <= region) continue;
    const uint64_t start = std::max(mapping.start, region), end = std::min(mapping.end, region + kLargePage);
    const bool watched = written_.watching() && (mapping.prot & PROT_WRITE) != 0;
    for (uint64_t page = (start - region) / kPageSize; page < (end - region) / kPageSize; ++page) {
      const bool looked_at =
          watched && written_.page(region + page * kPageSize) == WrittenCode::Page::looked_at;
      rights.executable.set(page, !watched || looked_at);
      rights.read_only.set(page, looked_at);
    }
  }
  return rights;
}

uint64_t PageTables::page_entry(uint64_t address, const Chunk& chunk, const Rights& rights) {
  if (!in_windows(address, kPageSize)) return 0;  // the null pages below the low window
  const uint64_t page = index(address, 12);
  return (chunk.guest_physical + address % kChunkSize) |
         (rights.read_only[page] ? kUserPage & ~kWritable : kUserPage) |
         (rights.executable[page] ? 0 : kNoExecute);
}

// The page-directory entry for a 2 MiB region; makes a 4 KiB table where one is needed.
uint64_t PageTables::region_entry(uint64_t region, const Chunk& chunk, Rights& rights) {
  const uint64_t physical = chunk.guest_physical + region % kChunkSize;
  const bool whole_in_window = in_windows(region, kLargePage);
  if (whole_in_window && rights.executable.none()) return physical | kUserPage | kLarge | kNoExecute;
  if (whole_in_window && rights.executable.all() && rights.read_only.none())
    return physical | kUserPage | kLarge;
  rights.table = new_table();
  for (uint64_t page = 0; page < kEntries; ++page) {
    const uint64_t value = page_entry(region + page * kPageSize, chunk, rights);
    std::memcpy(monitor_ + rights.table + page * 8, &value, sizeof value);
  }
  return rights.table | kTable;
}

void PageTables::update(uint64_t region) {
  const auto chunk = chunks_.find(region & ~(kChunkSize - 1));
  if (chunk == chunks_.end()) return;
  Rights rights = wanted(region);
  const auto found = rights_.find(region);
  const Rights current = found == rights_.end() ? Rights() : found->second;
  const Pages changes = (rights.executable ^ current.executable) | (rights.read_only ^ current.read_only);
  if (changes.none()) return;
  if (current.table != 0 && changes.count() <= kMostInPlace) {
    rights.table = current.table;
    for (uint64_t page = 0; page < kEntries; ++page)
      if (changes[page])
        store(rights.table + page * 8, page_entry(region + page * kPageSize, chunk->second, rights));
  } else {
    store(chunk->second.directory + index(region, 21) * 8, region_entry(region, chunk->second, rights));
  }
  if (rights.executable.none() && rights.table == 0)
    rights_.erase(region);
  else
    rights_.insert_or_assign(region, rights);
}

std::vector<TableWrite> PageTables::take_writes(bool* rebuild) {
  *rebuild = false;
  for (const uint64_t region : dirty_) {
    if (next_table_ + kPageSize > kMonitorSize - kForChunks) {
      *rebuild = true;
      return {};
    }
    update(region);
  }
  dirty_.clear();
  const size_t count = std::min(queue_.size(), kMaxTableWrites);
  std::vector<TableWrite> writes(queue_.begin(), queue_.begin() + static_cast<long>(count));
  queue_.erase(queue_.begin(), queue_.begin() + static_cast<long>(count));
  if (count != 0) ++generation_;
  return writes;
}

void PageTables::rebuild() {
  queue_.clear();
  live_ = false;
  next_table_ = layout::kTablePool;
  build_fixed();
  for (auto& [start, chunk] : chunks_) {
    build_directory(start, chunk);
    store(pdpt_of(start) + index(start, 30) * 8, chunk.directory | kTable);
  }
  for (const auto& [region, rights] : rights_) dirty_.insert(region);
  rights_.clear();
  for (const uint64_t region : dirty_) update(region);
  dirty_.clear();
  live_ = true;
  ++generation_;
}

}  // namespace aftercheck::kvm
