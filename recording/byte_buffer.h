// A growing byte buffer that leaves new bytes uninitialised: std::vector would clear megabytes only to
// overwrite them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>

namespace aftercheck::recording {

class ByteBuffer {
 public:
  std::byte* data() { return bytes_.get(); }
  const std::byte* data() const { return bytes_.get(); }
  size_t size() const { return size_; }
  std::span<const std::byte> span() const { return {bytes_.get(), size_}; }
  void clear() { size_ = 0; }
  void shrink_to(size_t size) { size_ = size; }

  // Room for `count` more bytes at the returned address; they count once `grow` is called.
  std::byte* reserve_more(size_t count) {
    if (capacity_ - size_ < count) reallocate(count);
    return bytes_.get() + size_;
  }
  void grow(size_t count) { size_ += count; }
  size_t room() const { return capacity_ - size_; }  // bytes there are at reserve_more()'s address
  void push(std::byte value) {
    *reserve_more(1) = value;
    grow(1);
  }

 private:
  void reallocate(size_t count) {
    const size_t capacity = std::max(size_ + count, 2 * capacity_);
    auto bytes = std::make_unique_for_overwrite<std::byte[]>(capacity);
    if (size_ != 0) std::memcpy(bytes.get(), bytes_.get(), size_);
    bytes_ = std::move(bytes);
    capacity_ = capacity;
  }

  std::unique_ptr<std::byte[]> bytes_;
  size_t size_ = 0, capacity_ = 0;
};

}  // namespace aftercheck::recording
