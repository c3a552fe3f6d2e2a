// What stores have overwritten, so that all of them can be undone: code that runs on guest memory itself, and
// whose effects are thrown away.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_set>
#include <vector>

#include "machine/address_space.h"

namespace aftercheck {

// Entries are appended by whoever stores, translated code too, before each store; the newest is undone first.
// When they fill the journal they are replaced by whole pages as they were before. What is stored in
// kGhostWindow lasts. Not thread-safe.
class StoreJournal {
 public:
  struct Entry {
    uint64_t address = 0, size = 0;  // at most 16 bytes
    std::array<uint64_t, 2> old{};   // what was there
  };
  // Pages that may be changed until undo(): 1 GiB.
  static constexpr size_t kMostPages = size_t{1} << 18;

  // `next` is where the next entry goes: appending advances it. It must outlive the journal.
  explicit StoreJournal(uint64_t& next);
  ~StoreJournal();
  StoreJournal(const StoreJournal&) = delete;
  StoreJournal& operator=(const StoreJournal&) = delete;

  // The bytes are about to be changed. False where not all can be read: what is noted then ends before.
  bool note(uint64_t address, uint64_t size);
  // Nothing was stored into this page, which can't be written: forgets the newest entries if they say so.
  void not_stored(uint64_t page);
  // Is this where an entry would go for which there is no room? Then drain() makes some.
  bool is_overrun(uint64_t address) const;
  void drain();
  // More than kMostPages have been changed.
  bool full() const { return pages_.size() > kMostPages; }

  bool empty() const { return next_ == first() && pages_.empty(); }
  // What may have been changed since the last undo(): calls `changed` with Ranges, in no order, which may
  // overlap.
  template <typename Changed>
  void visit(Changed changed) const {
    for (const auto* entry = reinterpret_cast<const Entry*>(first());
         reinterpret_cast<uint64_t>(entry) != next_; ++entry)
      changed(Range{entry->address, entry->address + entry->size});
    for (const auto& page : pages_) changed(Range{page->address, page->address + kPageSize});
  }
  // Gives all of it its old contents, and forgets it.
  void undo();

 private:
  struct Page {
    uint64_t address = 0;
    std::array<std::byte, kPageSize> contents;
  };
  uint64_t& next_;
  std::byte* memory_ = nullptr;               // with an inaccessible page behind it
  std::vector<std::unique_ptr<Page>> pages_;  // in the order in which they were kept; all before the entries
  std::unordered_set<uint64_t> kept_;         // their addresses

  uint64_t first() const { return reinterpret_cast<uint64_t>(memory_); }
  bool append(uint64_t address, uint64_t size);
  bool keep(uint64_t page);
  void undo_entries();
};
static_assert(sizeof(StoreJournal::Entry) == 32, "translated code counts on it");

}  // namespace aftercheck
