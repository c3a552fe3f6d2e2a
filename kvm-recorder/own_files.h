// What of the file system is the recorder's: the directory of the recording, and what its open descriptors
// lead to. Decided by the opened thing itself (device, inode, the folder that it lies in), never by the name
// that led there: links, mounts and descriptors of directories give one thing many names.
#pragma once

#include <sys/stat.h>

#include <array>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include "kvm-recorder/host_thread.h"

namespace aftercheck {

// On the threads that run the guest's; one at a time.
class OwnFiles {
 public:
  // Everything in `directory` and in its folders is the recorder's from now on. Nothing else may make folders
  // below those: four levels are looked at. `since_now`: it was made for this recording, and there is a file
  // in it already.
  void protect(const std::filesystem::path& directory, bool since_now = true);

  // False for nearly everything that a guest opens, and cheap: then it is neither the recorder's nor a file
  // of /proc. True is a reason to look. `changed` is the time of the last change of status (st_ctim).
  bool may_be_ours(uint64_t device, uint64_t inode, const timespec& changed) const;
  // True for the protected directory and what lies in it. `host` looks where the guest can't (it has another
  // root directory, or fewer rights), or where a path means something else (another mount namespace).
  bool holds(int fd, const struct stat& status, HostThread& host) const;
  // True for the protected directory itself.
  bool is_directory(const struct stat& status) const;
  // True for the directories that lead to it. With another name of one of them the recorder would no longer
  // find its own files, and somebody else could put others in their place.
  bool is_above(const struct stat& status) const;

  // The guest has set the clock: times of changes tell nothing any more.
  void distrust_times() { times_tell_ = false; }

 private:
  struct Directory {
    std::filesystem::path path;  // absolute
    uint64_t device = 0, inode = 0;
    uint64_t file_device = 0;  // of the files in it, which in some overlays is another one
    int64_t since = 0;         // nothing in it changed last before this, in seconds
  };
  std::vector<Directory> directories_;
  std::vector<std::pair<uint64_t, uint64_t>> above_;  // device, inode
  bool times_tell_ = true;

  // Regular files that holds() found to be nobody's of the recorder, by hash of the inode. What gets another
  // name or another folder, and what gets the number of a file that was deleted, has changed its status at
  // that time; so has each file that the recorder makes. A file whose last change was well in the past when
  // it was looked at is therefore the same file, where it was, as long as it has the same time of change.
  struct Elsewhere {
    uint64_t device = 0, inode = 0;
    int64_t seconds = 0, nanoseconds = 0;
    friend bool operator==(const Elsewhere&, const Elsewhere&) = default;
  };
  mutable std::array<Elsewhere, 64> elsewhere_{};

  Elsewhere& place_for(uint64_t inode) const { return elsewhere_[inode % elsewhere_.size()]; }
  std::optional<bool> lies_in(int fd, const struct stat& status) const;
  bool is_listed(const struct stat& status) const;
};

}  // namespace aftercheck
