// The traced program's code: which bytes were mapped where. Mappings may change while a trace is decoded.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/interval_map.h"

namespace aftercheck::pt {

// Address ranges with their bytes. A later mapping replaces what it overlaps, as mmap(MAP_FIXED) does.
// Not thread-safe; a decoder that uses it sees changes made between its calls or in its sink's callbacks.
class CodeImage {
 public:
  // Maps bytes that the image shares with the caller. Address + size must not pass the end of the address
  // space (Error usage).
  void map(uint64_t address, std::shared_ptr<const std::vector<uint8_t>> bytes);
  // Maps a part of shared bytes; `offset` + `size` must lie inside (Error usage).
  void map(uint64_t address, std::shared_ptr<const std::vector<uint8_t>> bytes, size_t offset, size_t size);
  // Maps bytes that stay as long as `owner` does.
  void map(uint64_t address, std::span<const uint8_t> bytes, std::shared_ptr<const void> owner);
  // Maps a range of a file, which is mapped into memory here, truncated to the file's size as the kernel's
  // page cache would. Error io when it can't be read.
  void map_file(uint64_t address, const std::string& path, uint64_t offset, uint64_t size);
  void unmap(uint64_t address, uint64_t size);

  // Whoever can give code that is not mapped yet: called out of at() and read(), it may fill() the address.
  using Source = std::function<void(uint64_t address)>;
  void set_source(Source source) { source_ = std::move(source); }
  // For sources: as map(), where nothing is mapped. That is no change: the code was always there.
  void fill(uint64_t address, std::shared_ptr<const std::vector<uint8_t>> bytes);
  // The source has code now where it had none.
  void source_changed(uint64_t address, uint64_t size);

  // Mapped bytes from `address` on, up to the end of that mapping; empty when nothing is mapped there. Valid
  // until the next change.
  std::span<const uint8_t> at(uint64_t address) const;
  // The same without asking the source.
  std::span<const uint8_t> mapped_at(uint64_t address) const;
  // Copies up to `size` bytes across adjoining mappings; returns how many.
  size_t read(uint64_t address, uint8_t* buffer, size_t size) const;

  // Grows with every change.
  uint64_t generation() const { return changes_.size(); }
  struct Change {
    uint64_t address;
    uint64_t size;
  };
  // What changed since an earlier generation.
  std::span<const Change> changes_since(uint64_t generation) const {
    return std::span(changes_).subspan(generation);
  }

 private:
  struct Mapping {
    uint64_t size;
    const uint8_t* bytes;
    std::shared_ptr<const void> owner;

    uint64_t extent() const { return size; }
    Mapping part(uint64_t skip, uint64_t part_size) const { return {part_size, bytes + skip, owner}; }
  };
  void insert(uint64_t address, Mapping mapping);

  IntervalMap<Mapping> mappings_;
  std::vector<Change> changes_;
  Source source_;
};

}  // namespace aftercheck::pt
