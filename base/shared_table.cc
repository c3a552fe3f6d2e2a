#include "base/shared_table.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

namespace aftercheck {
namespace {

constexpr uint64_t kAligned = 8;

constexpr uint64_t align_up(uint64_t size) { return (size + kAligned - 1) & ~(kAligned - 1); }

// FNV-1a (Fowler, Noll, Vo), 64 bits.
uint64_t hash_of(std::span<const std::byte> key) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const std::byte byte : key) hash = (hash ^ static_cast<uint64_t>(byte)) * 0x100000001b3;
  return hash;
}

}  // namespace

// Key and value follow, each aligned.
struct SharedTable::Entry {
  uint64_t next = 0;  // offset in Memory; 0: none
  uint64_t key_size = 0, value_size = 0;
};

struct SharedTable::Memory {
  std::atomic<uint64_t> used{sizeof(Memory)};
  std::array<std::atomic<uint64_t>, kBuckets> first{};
};

SharedTable::SharedTable(size_t bytes) : size_(sizeof(Memory) + bytes) {
  void* memory =
      mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory != MAP_FAILED) memory_ = new (memory) Memory;
}

SharedTable::~SharedTable() {
  if (memory_ != nullptr) munmap(memory_, size_);
}

const SharedTable::Entry* SharedTable::at(uint64_t offset) const {
  return reinterpret_cast<const Entry*>(reinterpret_cast<const std::byte*>(memory_) + offset);
}

std::optional<std::span<const std::byte>> SharedTable::find(std::span<const std::byte> key) const {
  if (memory_ == nullptr) return std::nullopt;
  uint64_t offset = memory_->first[hash_of(key) % kBuckets].load(std::memory_order_acquire);
  while (offset != 0) {
    const Entry* entry = at(offset);
    const auto* bytes = reinterpret_cast<const std::byte*>(entry + 1);
    if (entry->key_size == key.size() && std::memcmp(bytes, key.data(), key.size()) == 0)
      return std::span(bytes + align_up(key.size()), entry->value_size);
    offset = entry->next;
  }
  return std::nullopt;
}

void SharedTable::add(std::span<const std::byte> key, std::span<const std::byte> value) {
  if (memory_ == nullptr) return;
  const uint64_t size = sizeof(Entry) + align_up(key.size()) + align_up(value.size());
  if (size > size_) return;
  uint64_t offset = memory_->used.load(std::memory_order_relaxed);
  do {
    if (offset > size_ - size) return;
  } while (!memory_->used.compare_exchange_weak(offset, offset + size, std::memory_order_relaxed));
  auto* place = reinterpret_cast<std::byte*>(memory_) + offset;
  auto* entry = new (place) Entry{.key_size = key.size(), .value_size = value.size()};
  std::memcpy(entry + 1, key.data(), key.size());
  if (!value.empty())
    std::memcpy(reinterpret_cast<std::byte*>(entry + 1) + align_up(key.size()), value.data(), value.size());
  std::atomic<uint64_t>& first = memory_->first[hash_of(key) % kBuckets];
  entry->next = first.load(std::memory_order_relaxed);
  while (!first.compare_exchange_weak(entry->next, offset, std::memory_order_release,
                                      std::memory_order_relaxed)) {
  }
}

}  // namespace aftercheck
