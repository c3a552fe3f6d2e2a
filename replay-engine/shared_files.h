// Files that the guest maps shared and writable: memory files in a replay, so that all mappings of one see
// what each writes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "base/fd.h"
#include "machine/address_space.h"

namespace aftercheck {

// By number, as the log gives them. Mappings of a file have its number as their `inode`. Throws Error(io)
// where memory for a file can't be had; `name` is the guest's path, for that message.
class SharedFiles {
 public:
  // No file is longer: what a file system can hold.
  static constexpr uint64_t kLongest = uint64_t{1} << 43;

  // The file with this number, made where it is new, at least `length` bytes long.
  int open(uint64_t number, uint64_t length, const std::string& name);
  // A number for a file that the log gives none, because it shares with no other mapping.
  uint64_t new_number() { return next_private_++; }
  bool has(uint64_t number) const { return files_.contains(number); }
  std::vector<uint64_t> numbers() const;
  uint64_t length(uint64_t number) const;

  // Puts bytes into the file, whose length they don't change.
  void write(uint64_t number, uint64_t offset, std::span<const std::byte> bytes, const std::string& name);
  // Calls visit(offset, bytes) for all of the file that is not a hole, in pieces of whole pages (the file's
  // end excepted).
  void read_all(uint64_t number,
                const std::function<void(uint64_t offset, std::span<const std::byte> bytes)>& visit) const;

  // In the child of a fork: every file becomes a copy of its own, and the mappings of `space` are made to
  // show it. The parent must stand still meanwhile. So does memory that is mapped shared and anonymous.
  void separate(AddressSpace& space);

 private:
  std::map<uint64_t, UniqueFd> files_;
  uint64_t next_private_ = uint64_t{1} << 63;  // beyond what a recorder counts to

  UniqueFd copy_of(uint64_t number) const;
};

}  // namespace aftercheck
