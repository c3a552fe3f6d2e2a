// Carries a packet that a chunk of trace was cut in over to the next chunk. Internal to pt-trace.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

namespace aftercheck::pt {

class ChunkCarry {
 public:
  // Calls parse(begin, size, offset) -> bytes consumed, on the chunk and, before it, on the carried bytes
  // joined with as much of the chunk as fits. parse leaves less than one packet (at most 16 bytes)
  // unconsumed.
  template <typename Parse>
  void feed(std::span<const uint8_t> bytes, Parse parse) {
    uint64_t offset = fed_;
    fed_ += bytes.size();
    while (size_ > 0 && !bytes.empty()) {
      const size_t old_size = size_;
      const size_t taken = std::min(bytes.size(), capacity - old_size);
      std::memcpy(carry_ + old_size, bytes.data(), taken);
      const size_t size = old_size + taken;
      const size_t used = parse(carry_, size, offset - old_size);
      if (used >= old_size) {
        bytes = bytes.subspan(used - old_size);
        offset += used - old_size;
        size_ = 0;
      } else {
        std::memmove(carry_, carry_ + used, size - used);
        size_ = size - used;
        bytes = bytes.subspan(taken);
        offset += taken;
      }
    }
    if (bytes.empty()) return;
    const size_t used = parse(bytes.data(), bytes.size(), offset);
    size_ = bytes.size() - used;
    std::memcpy(carry_, bytes.data() + used, size_);
  }
  // Bytes fed so far, and how many of them still wait for the rest of their packet.
  uint64_t fed() const { return fed_; }
  size_t waiting() const { return size_; }
  std::span<const uint8_t> carried() const { return {carry_, size_}; }
  void drop() { size_ = 0; }

 private:
  static constexpr size_t capacity = 64;
  uint64_t fed_ = 0;
  size_t size_ = 0;
  uint8_t carry_[capacity];
};

}  // namespace aftercheck::pt
