// File descriptors with an owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace aftercheck {

// Owns one file descriptor and closes it. Movable, not copyable; -1 means none.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

// As many bytes as a file has at `offset`; returns how many. An error ends them too: `*error` (an errno
// value, if given) then tells, else it is 0. The file position is not touched. A read and no mapping, since a
// file that shrinks meanwhile would make that one raise SIGBUS.
size_t read_file(int fd, uint64_t offset, std::span<std::byte> bytes, int* error = nullptr);

// The recorder shares its descriptor table with the guest, so its own descriptors live at the top of the
// table, where "lowest free number" never lands. Moves `fd` there (close-on-exec) and registers it; the
// result owns it. Throws Error(io) when the table is too small.
UniqueFd move_out_of_guest_reach(UniqueFd fd);

// From now on the calling thread has a descriptor table of its own, with nothing in it but 0, 1 and 2, which
// lead nowhere: what it opens takes no number from a guest that runs meanwhile, and it holds none of the
// guest's files open. move_out_of_guest_reach() leaves its descriptors where they are. False, and nothing has
// changed, where the host forbids it (unshare(2), CLONE_FILES).
bool use_own_descriptor_table();

// True for a descriptor registered by move_out_of_guest_reach and still open. Any thread.
bool is_own_fd(int fd);

// True when such a descriptor leads to the file with this device and inode. Any thread. Anonymous inodes
// (epoll and the like) share one, and a terminal may be the guest's as well: true is a reason to look, no
// verdict.
bool is_own_file(uint64_t device, uint64_t inode);

// Lowest number an own descriptor may have; what the guest is told is the end of its table. Fixed at first
// use from RLIMIT_NOFILE (getrlimit(2)).
int own_fd_floor();

}  // namespace aftercheck
