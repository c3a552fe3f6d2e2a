// What the processes of one recording or replay have found out and may tell each other: a table in memory
// that all processes have which are forked after it was made.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>

namespace aftercheck {

// Entries are added and never changed nor taken away. No locks, so a process that dies in the middle holds up
// nobody. Any thread, any process. Where there is no memory it forgets.
class SharedTable {
 public:
  // `bytes` for all entries; taken from the system as they are used.
  explicit SharedTable(size_t bytes);
  ~SharedTable();
  SharedTable(const SharedTable&) = delete;
  SharedTable& operator=(const SharedTable&) = delete;

  // The value that was added under this key; of several any. Valid as long as the table, aligned to 8 bytes.
  std::optional<std::span<const std::byte>> find(std::span<const std::byte> key) const;
  void add(std::span<const std::byte> key, std::span<const std::byte> value);

  // The bytes of a key or value; it must have no padding, or be cleared before it is filled.
  template <typename T>
  static std::span<const std::byte> bytes(const T& object) {
    static_assert(std::is_trivially_copyable_v<T>);
    return std::as_bytes(std::span(&object, 1));
  }

 private:
  static constexpr size_t kBuckets = 4096;
  struct Entry;
  struct Memory;
  const size_t size_;
  Memory* memory_ = nullptr;  // null: there is none

  const Entry* at(uint64_t offset) const;
};

}  // namespace aftercheck
