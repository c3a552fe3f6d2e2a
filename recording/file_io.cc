#include "recording/file_io.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "base/error.h"

namespace aftercheck::recording {

UniqueFd create_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
  if (fd < 0) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
  return move_out_of_guest_reach(UniqueFd(fd));
}

int write_all(int fd, std::span<const std::byte> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return ENOSPC;  // a file system that writes nothing and gives no reason
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return 0;
}

size_t read_at(int fd, const std::string& path, uint64_t offset, std::span<std::byte> bytes) {
  int error = 0;
  const size_t done = read_file(fd, offset, bytes, &error);
  if (error != 0) fail(ErrorKind::io, "{}: offset {}: {}", path, offset + done, errno_text(error));
  return done;
}

bool zeros_until_end(int fd, const std::string& path, uint64_t from) {
  std::vector<std::byte> buffer(64 << 10);
  for (size_t n = 1; n != 0; from += n) {
    n = read_at(fd, path, from, buffer);
    if (!std::all_of(buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(n),
                     [](std::byte b) { return b == std::byte{0}; }))
      return false;
  }
  return true;
}

}  // namespace aftercheck::recording
