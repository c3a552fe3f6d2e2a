#include "machine/store_journal.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/guarded_copy.h"

namespace aftercheck {
namespace {

constexpr size_t kSize = 512 << 10;
constexpr uint64_t kLongest = 16;  // of an entry
constexpr uint64_t kShort = 64;    // what is noted in entries; more in pages

std::byte* pointer(uint64_t address) { return reinterpret_cast<std::byte*>(address); }

}  // namespace

StoreJournal::StoreJournal(uint64_t& next) : next_(next) {
  install_fault_guard();
  void* memory =
      mmap(nullptr, kSize + kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    fail(ErrorKind::host_lacks, "no memory for a journal of stores: {}", errno_text(errno));
  memory_ = static_cast<std::byte*>(memory);
  if (mprotect(memory_, kSize, PROT_READ | PROT_WRITE) != 0) {
    const int error = errno;
    munmap(memory_, kSize + kPageSize);
    fail(ErrorKind::host_lacks, "no memory for a journal of stores: {}", errno_text(error));
  }
  next_ = first();
}

StoreJournal::~StoreJournal() { munmap(memory_, kSize + kPageSize); }

bool StoreJournal::is_overrun(uint64_t address) const {
  return address >= first() + kSize && address < first() + kSize + kPageSize;
}

bool StoreJournal::append(uint64_t address, uint64_t size) {
  if (next_ + sizeof(Entry) > first() + kSize) drain();
  Entry entry{.address = address, .size = size};
  if (!guarded_copy(entry.old.data(), pointer(address), size)) return false;
  std::memcpy(pointer(next_), &entry, sizeof entry);
  next_ += sizeof entry;
  return true;
}

bool StoreJournal::keep(uint64_t page) {
  if (kept_.contains(page)) return true;
  auto copy = std::make_unique<Page>();
  copy->address = page;
  if (!guarded_copy(copy->contents.data(), pointer(page), kPageSize)) return false;
  pages_.push_back(std::move(copy));
  kept_.insert(page);
  return true;
}

bool StoreJournal::note(uint64_t address, uint64_t size) {
  if (size == 0) return true;
  if (size > UINT64_MAX - address) return false;
  if (size <= kShort) {
    for (uint64_t done = 0; done < size; done += kLongest)
      if (!append(address + done, std::min(size - done, kLongest))) return false;
    return true;
  }
  if (kGhostWindow.contains(address)) return true;
  drain();
  for (uint64_t page = page_down(address); page < address + size; page += kPageSize)
    if (full() || !keep(page)) return false;
  return true;
}

void StoreJournal::not_stored(uint64_t page) {
  for (; next_ != first(); next_ -= sizeof(Entry)) {
    Entry last;
    std::memcpy(&last, pointer(next_ - sizeof last), sizeof last);
    if (last.address + last.size <= page || last.address >= page + kPageSize) return;
  }
}

void StoreJournal::undo_entries() {
  const auto* const oldest = reinterpret_cast<const Entry*>(first());
  for (const auto* entry = reinterpret_cast<const Entry*>(next_); entry-- != oldest;) {
    if (kGhostWindow.contains(entry->address)) continue;
    if (entry->size == sizeof entry->old[0])
      std::memcpy(pointer(entry->address), entry->old.data(), sizeof entry->old[0]);
    else
      std::memcpy(pointer(entry->address), entry->old.data(), std::min(entry->size, kLongest));
  }
  next_ = first();
}

// The pages that the entries change are kept as they were before all of them.
void StoreJournal::drain() {
  if (next_ == first()) return;
  std::vector<Page> now;
  std::unordered_set<uint64_t> seen;
  for (uint64_t at = first(); at != next_; at += sizeof(Entry)) {
    Entry entry;
    std::memcpy(&entry, pointer(at), sizeof entry);
    for (const uint64_t page : {page_down(entry.address), page_down(entry.address + entry.size - 1)}) {
      if (kGhostWindow.contains(page) || !seen.insert(page).second) continue;
      now.emplace_back().address = page;
      guarded_copy(now.back().contents.data(), pointer(page), kPageSize);
    }
  }
  undo_entries();
  for (const Page& page : now) keep(page.address);
  for (const Page& page : now) guarded_copy(pointer(page.address), page.contents.data(), kPageSize);
}

void StoreJournal::undo() {
  undo_entries();
  for (auto page = pages_.rbegin(); page != pages_.rend(); ++page)
    guarded_copy(pointer((*page)->address), (*page)->contents.data(), kPageSize);
  pages_.clear();
  kept_.clear();
}

}  // namespace aftercheck
