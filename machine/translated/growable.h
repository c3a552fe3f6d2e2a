// An array that grows in place.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "machine/address_space.h"

namespace aftercheck::translated {

// What a translator keeps of its code grows to some MiB within a program's first milliseconds. Address space
// for all that it may become is reserved, so nothing is ever moved, and pages are taken from the system many
// at a time: one by one each costs as much as translating twenty instructions.
template <typename T>
class Growable {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  // It holds at most so many. Throws Error(host_lacks).
  explicit Growable(size_t most) : bytes_(page_up(most * sizeof(T))) {
    void* memory =
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
      fail(ErrorKind::host_lacks, "no address space for translated code: {}", errno_text(errno));
    data_ = static_cast<T*>(memory);
  }
  ~Growable() { munmap(data_, bytes_); }
  Growable(const Growable&) = delete;
  Growable& operator=(const Growable&) = delete;

  size_t size() const { return size_; }
  size_t most() const { return bytes_ / sizeof(T); }
  bool empty() const { return size_ == 0; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  T& operator[](size_t number) { return data_[number]; }
  const T& operator[](size_t number) const { return data_[number]; }
  T& at(size_t number) {
    check(number < size_);
    return data_[number];
  }
  const T& at(size_t number) const {
    check(number < size_);
    return data_[number];
  }
  T& back() { return data_[size_ - 1]; }

  T& emplace_back() { return push_back(T{}); }
  T& push_back(const T& value) {
    check(size_ < most());
    if ((size_ + 1) * sizeof(T) > taken_) take((size_ + 1) * sizeof(T), more());
    return *new (data_ + size_++) T(value);
  }
  void pop_back() { --size_; }
  // Fewer than there are.
  void shrink(size_t size) { size_ = size; }
  void clear() {
    size_ = 0;
    constexpr size_t kKept = size_t{1} << 20;
    if (taken_ > kKept || of_file_) give_back();
  }
  // So many that are zero; no others have been here.
  void assign_zeros(size_t count) {
    check(count <= most());
    if (size_ != 0) std::memset(data_, 0, size_ * sizeof(T));
    size_ = count;
    if (count * sizeof(T) > taken_) take(count * sizeof(T), 0);
  }
  // So many that `file` has at `offset`, where a page begins; what lies behind them on the last page is
  // nobody's. What is changed of them is changed here only.
  void assign(size_t count, int file, uint64_t offset) {
    check(count <= most());
    clear();
    if (count == 0) return;
    map_anew(MAP_PRIVATE | MAP_NORESERVE, page_up(count * sizeof(T)), file, offset);
    of_file_ = true;
    size_ = count;
    taken_ = page_up(count * sizeof(T));
  }

 private:
  const size_t bytes_;
  T* data_ = nullptr;
  size_t size_ = 0;
  size_t taken_ = 0;  // bytes, whole pages
  bool of_file_ = false;

  static void check(bool holds) {
    if (!holds) fail(ErrorKind::internal, "translated code has no such entry");
  }
  void map_anew(int flags, size_t bytes, int file, uint64_t offset) {
    if (mmap(data_, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, file, static_cast<off_t>(offset)) ==
        MAP_FAILED)
      fail(ErrorKind::host_lacks, "memory for translated code: {}", errno_text(errno));
  }
  void give_back() {
    if (std::exchange(of_file_, false))
      map_anew(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, taken_, -1, 0);
    else
      madvise(data_, bytes_, MADV_DONTNEED);
    taken_ = 0;
  }
  // Where the kernel can't (before Linux 5.14), pages come as they are touched.
  void take(size_t bytes, size_t more) {
    const size_t until = std::min(page_up(std::max(bytes, taken_ + more)), bytes_);
    madvise(reinterpret_cast<std::byte*>(data_) + taken_, until - taken_, MADV_POPULATE_WRITE);
    taken_ = until;
  }
  // Short programs need little.
  size_t more() const {
    constexpr size_t kLeast = size_t{16} << 10, kMost = size_t{128} << 10;
    return std::clamp(taken_, kLeast, kMost);
  }
};

}  // namespace aftercheck::translated
