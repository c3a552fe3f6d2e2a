#include "base/fd.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <limits>

#include "base/error.h"

namespace aftercheck {
namespace {

constexpr int kOwnFds = 64;  // KVM, vCPUs, log, store and console together stay far below this

struct OwnFd {
  std::atomic<bool> open = false;
  std::atomic<uint64_t> device = 0, inode = 0;
};

std::array<OwnFd, kOwnFds>& own_table() {
  static std::array<OwnFd, kOwnFds> table{};
  return table;
}

void set_open(int fd, bool open) {
  const int index = fd - own_fd_floor();
  if (index >= 0 && index < kOwnFds) own_table()[static_cast<size_t>(index)].open = open;
}

thread_local bool has_own_table = false;

}  // namespace

size_t read_file(int fd, uint64_t offset, std::span<std::byte> bytes, int* error) {
  if (error != nullptr) *error = 0;
  size_t done = 0;
  while (done < bytes.size()) {
    const uint64_t at = offset + done;
    constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<off_t>::max());
    if (at < offset || at > kMost || bytes.size() - done > kMost - at) break;  // no file goes that far
    const ssize_t n = pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && error != nullptr) *error = errno;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

int own_fd_floor() {
  static const int floor = [] {
    rlimit limit{};
    // A huge table (RLIM_INFINITY, or fs.nr_open) would make the kernel allocate it in full for one high
    // number.
    constexpr rlim_t kHighest = 65536;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024 - kOwnFds;
    return static_cast<int>(std::max<rlim_t>(std::min(limit.rlim_cur, kHighest), 2 * kOwnFds)) - kOwnFds;
  }();
  return floor;
}

bool use_own_descriptor_table() {
  if (unshare(CLONE_FILES) != 0) return false;
  has_own_table = true;
  close_range(0, ~0U, 0);
  for (int standard = 0; standard <= STDERR_FILENO; ++standard) open("/", O_PATH | O_CLOEXEC);
  return true;
}

UniqueFd move_out_of_guest_reach(UniqueFd fd) {
  if (has_own_table) return fd;
  const int floor = own_fd_floor();
  const int high = fcntl(fd.get(), F_DUPFD_CLOEXEC, floor);
  if (high < 0 || high >= floor + kOwnFds) {
    if (high >= 0) close(high);
    fail(ErrorKind::io,
         "no descriptor free at {} or above for the recorder's own files: {}; raise `ulimit -n`", floor,
         errno_text(high < 0 ? errno : EMFILE));
  }
  struct stat status {};
  fstat(high, &status);
  OwnFd& own = own_table()[static_cast<size_t>(high - floor)];
  own.device = status.st_dev;
  own.inode = status.st_ino;
  own.open = true;
  return UniqueFd(high);
}

bool is_own_fd(int fd) {
  const int index = fd - own_fd_floor();
  return index >= 0 && index < kOwnFds && own_table()[static_cast<size_t>(index)].open;
}

bool is_own_file(uint64_t device, uint64_t inode) {
  return std::any_of(own_table().begin(), own_table().end(), [&](const OwnFd& own) {
    return own.open && own.inode == inode && own.device == device;
  });
}

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) {
    set_open(fd_, false);
    close(fd_);
  }
  fd_ = fd;
}

}  // namespace aftercheck
