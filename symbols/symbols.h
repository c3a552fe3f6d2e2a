// From addresses of a running (or replayed, or traced) program to functions and lines, while its mappings
// change.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/interval_map.h"
#include "symbols/object.h"

namespace aftercheck::symbols {

// Where an address lies. All null where nothing is mapped.
struct Location {
  Object* object = nullptr;            // the mapped file
  const Function* function = nullptr;  // null where the file doesn't tell
  uint64_t object_address = 0;         // the address in the file's own terms
  uint64_t offset = 0;                 // from the function's start; from the mapping's where there is none
};

// What is mapped where. A later mapping replaces what it overlaps, as mmap(MAP_FIXED) does. Not thread-safe.
class Symbols {
 public:
  // `file_offset` is that of the first byte. Ranges that pass the end of the address space are cut there.
  void map(uint64_t address, uint64_t size, std::shared_ptr<Object> object, uint64_t file_offset);
  void unmap(uint64_t address, uint64_t size);
  // As mremap(MREMAP_MAYMOVE) does: what lies in the old range moves, cut to the new size; nothing is left.
  void remap(uint64_t address, uint64_t size, uint64_t new_address, uint64_t new_size);
  void clear() { mappings_.clear(); }

  Location find(uint64_t address) const;
  // "main+0x12 (ls)", "ls+0x4350" or "" where nothing is mapped.
  std::string text(uint64_t address) const;
  SourceLine line(uint64_t address) const;
  // Innermost first; at least one frame where a function or a line is known.
  std::vector<Frame> frames(uint64_t address) const;
  // Where a function is mapped, by name as for Object::functions_named.
  std::vector<uint64_t> addresses_of(const std::string& function) const;

 private:
  struct Mapping {
    uint64_t size;
    uint64_t file_offset;
    std::shared_ptr<Object> object;

    uint64_t extent() const { return size; }
    Mapping part(uint64_t skip, uint64_t part_size) const { return {part_size, file_offset + skip, object}; }
  };

  IntervalMap<Mapping> mappings_;
};

}  // namespace aftercheck::symbols
