#include "kvm-recorder/descriptors.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>

#include "base/fd.h"
#include "kvm-recorder/proc_files.h"

namespace aftercheck {
namespace {

OutputPlace place_of(int fd) {
  constexpr unsigned kMemoryDevices = 1;  // Documentation/admin-guide/devices.txt: /dev/null and its kin
  OutputPlace place;
  struct stat status {};
  if (fstat(fd, &status) != 0) return place;
  if (S_ISCHR(status.st_mode) && major(status.st_rdev) == kMemoryDevices) return place;
  place.known = true;
  place.device = status.st_dev;
  place.rdev = S_ISCHR(status.st_mode) ? status.st_rdev : 0;
  place.inode = status.st_ino;
  place.regular = S_ISREG(status.st_mode);
  if (!place.regular) return place;
  const int flags = fcntl(fd, F_GETFL);
  place.base = place.at = (flags & O_APPEND) != 0 ? status.st_size : lseek(fd, 0, SEEK_CUR);
  place.positioned = (flags & O_ACCMODE) == O_RDWR;  // reading moves, too
  return place;
}

// Which device a terminal's descriptor leads to: /dev/tty (5, 0) stands for another one.
dev_t terminal_of(int fd, const struct stat& status) {
  unsigned device = 0;
  if (S_ISCHR(status.st_mode) && status.st_rdev == makedev(5, 0) && ioctl(fd, TIOCGDEV, &device) == 0)
    return makedev(device >> 8 & 0xfff, (device & 0xff) | (device >> 12 & 0xfff00));  // new_encode_dev()
  return 0;
}

}  // namespace

Descriptors::Descriptors()
    : streams_{{1, 1}, {2, 2}}, places_{place_of(STDOUT_FILENO), place_of(STDERR_FILENO)} {
  for (const int fd : open_descriptors())
    if (fd != STDOUT_FILENO && fd != STDERR_FILENO && allowed(fd)) arrived(fd);
}

bool Descriptors::allowed(int fd) const { return !is_own_fd(fd); }

uint8_t Descriptors::stream(int fd) const {
  const auto entry = streams_.find(fd);
  return entry == streams_.end() ? 0 : entry->second;
}

void Descriptors::duplicated(int from, int to) {
  if (from == to) return;
  const uint8_t stream_of_from = stream(from);
  if (stream_of_from == 0) {
    streams_.erase(to);
  } else {
    streams_[to] = stream_of_from;
  }
}

void Descriptors::closed(int fd) { streams_.erase(fd); }

void Descriptors::closed_range(unsigned first, unsigned last) {
  for (auto entry = streams_.begin(); entry != streams_.end();) {
    const auto fd = static_cast<unsigned>(entry->first);
    entry = fd >= first && fd <= last ? streams_.erase(entry) : std::next(entry);
  }
}

uint8_t Descriptors::stream_of(int fd, uint8_t likely) const {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY || (flags & O_PATH) != 0) return 0;
  struct stat status {};
  if (fstat(fd, &status) != 0) return 0;
  const dev_t terminal = terminal_of(fd, status);
  for (const uint8_t stream : {likely, static_cast<uint8_t>(3 - likely)}) {
    const OutputPlace& place = places_.at(stream - 1U);
    if (place.leads_to(status) || (terminal != 0 && place.known && place.rdev == terminal)) return stream;
  }
  return 0;
}

bool Descriptors::shares_description(int fd, uint8_t stream) const {
  const pid_t self = getpid();
  return std::ranges::any_of(streams_, [&](const auto& entry) {
    return entry.second == stream && syscall(SYS_kcmp, self, self, KCMP_FILE, fd, entry.first) == 0;
  });
}

void Descriptors::arrived(int fd, uint8_t likely) {
  const uint8_t stream = stream_of(fd, likely);
  if (stream == 0) {
    streams_.erase(fd);
    return;
  }
  // Two open file descriptions have a position each.
  if (place(stream).regular && !shares_description(fd, stream)) place(stream).positioned = true;
  streams_[fd] = stream;
}

}  // namespace aftercheck
