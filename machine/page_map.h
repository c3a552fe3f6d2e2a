// Which pages of guest memory are there, as the host's kernel tells it.
#pragma once

#include <cstdint>
#include <functional>

#include "base/fd.h"
#include "machine/address_space.h"

namespace aftercheck {

// Reads /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst). One object for one process: a child of
// fork needs its own. Where the file can't be read, nothing is known to be absent, and whole mappings are
// told. Not thread-safe.
class PageMap {
 public:
  PageMap();

  // In a process that fork(2) has made: it is its parent's, and works no more.
  void leave_to_parent() { pagemap_.reset(); }

  bool works() const { return static_cast<bool>(pagemap_); }

  // Calls visit(run) for each run of pages of the mapping that may hold something of the guest's own, by
  // ascending address, runs no longer than `longest` bytes (a multiple of the page size): anonymous pages
  // that were touched, also by others who share them; pages of a private file mapping that were written. What
  // is left out reads as zeros, or as the file. Nothing of shared file mappings: their pages are the file's.
  void own_pages(const Mapping& mapping, uint64_t longest, const std::function<void(Range)>& visit) const;

  // The same for pages of private mappings that this process shares with no other any more: all that it has
  // stored to since a fork(2) are among them.
  void unshared_pages(const Mapping& mapping, uint64_t longest,
                      const std::function<void(Range)>& visit) const;

 private:
  UniqueFd pagemap_;

  void private_pages(const Mapping& mapping, uint64_t longest, bool unshared,
                     const std::function<void(Range)>& visit) const;
  void shared_pages(const Mapping& mapping, uint64_t longest, const std::function<void(Range)>& visit) const;
};

}  // namespace aftercheck
