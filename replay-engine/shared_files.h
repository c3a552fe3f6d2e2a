// Files that change while the guest maps them: memory files in a replay, so that all mappings of one see what
// becomes of it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "base/fd.h"
#include "machine/address_space.h"
#include "replay-engine/sharing.h"

namespace aftercheck {

// By number, as the log gives them and mappings have them. Lengths are in whole pages: what is behind the end
// within a page can be accessed, and is the log's to say. Throws Error(io) where memory for a file can't be
// had; `name` is the guest's path, for that message.
class SharedFiles {
 public:
  // No file is longer: what a file system can hold.
  static constexpr uint64_t kLongest = uint64_t{1} << 43;

  // The file with this number, made where it is new. It is at least `length` bytes long, unless the log says
  // how long: logs of older versions do not, and have no accesses behind the end.
  int open(uint64_t number, uint64_t length, const std::string& name);
  // A number for a file that the log gives none, because it shares with no other mapping.
  uint64_t new_number() { return next_private_++; }
  bool has(uint64_t number) const { return files_.contains(number); }
  std::vector<uint64_t> numbers() const;
  uint64_t length(uint64_t number) const;

  // The log says how long the file is, in bytes; made where it is new.
  void resize(uint64_t number, uint64_t size, const std::string& name);
  bool sized(uint64_t number) const { return files_.at(number).sized; }
  // As it was when a checkpoint was made, still without contents.
  void restore(uint64_t number, uint64_t length, bool sized, const std::string& name);

  // Puts bytes into the file, whose length they don't change: they must lie in it.
  void write(uint64_t number, uint64_t offset, std::span<const std::byte> bytes, const std::string& name);
  // Makes them zero.
  void clear(uint64_t number, uint64_t offset, uint64_t size, const std::string& name);
  // Calls visit(range of offsets) for what is not a hole in [offset, offset + size).
  void data_in(uint64_t number, uint64_t offset, uint64_t size,
               const std::function<void(Range)>& visit) const;
  // Calls visit(offset, bytes) for all of the file that is not a hole, in pieces of whole pages (the file's
  // end excepted).
  void read_all(uint64_t number,
                const std::function<void(uint64_t offset, std::span<const std::byte> bytes)>& visit) const;

  // In the child of a fork: every file becomes a copy of its own, and the mappings of `space` are made to
  // show it. The parent must stand still meanwhile. So does memory that is mapped shared and anonymous.
  void separate(AddressSpace& space);

  // From now on files are those of all processes that share memory: with what others have under the same
  // number mappings of `space` are made anew, and what they lack they can have. Until leave().
  void join(SharingReplays& sharing, AddressSpace& space);
  void leave() { sharing_ = nullptr; }
  // Forgets those that `space` does not map.
  void drop_unmapped(const AddressSpace& space);
  bool joined() const { return sharing_ != nullptr; }

 private:
  struct File {
    UniqueFd fd;
    bool sized = false;
  };
  std::map<uint64_t, File> files_;
  SharingReplays* sharing_ = nullptr;
  static constexpr uint64_t kFirstPrivate = uint64_t{1} << 63;  // beyond what a recorder counts to
  uint64_t next_private_ = kFirstPrivate;

  UniqueFd copy_of(uint64_t number) const;
  UniqueFd make(uint64_t number, const std::string& name);
  void map_again(AddressSpace& space, const Mapping& mapping);
};

}  // namespace aftercheck
