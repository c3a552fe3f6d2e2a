#include "kvm-recorder/own_files.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

#include "base/error.h"
#include "base/fd.h"
#include "kvm-recorder/proc_files.h"

namespace aftercheck {

namespace {

constexpr int64_t kClockSlack = 2;  // s; time stamps of files are those of the last tick, or of a server

}  // namespace

void OwnFiles::protect(const std::filesystem::path& directory, bool since_now) {
  prepare_proc_files();
  struct stat status {};
  if (stat(directory.c_str(), &status) != 0)
    fail(ErrorKind::io, "{}: {}", directory.string(), errno_text(errno));
  Directory own{std::filesystem::absolute(directory), status.st_dev, status.st_ino, status.st_dev,
                since_now ? status.st_ctim.tv_sec - kClockSlack : INT64_MIN};
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    if (struct stat file{}; stat(entry.path().c_str(), &file) == 0 && S_ISREG(file.st_mode))
      own.file_device = file.st_dev;
  directories_.push_back(std::move(own));
  std::error_code error;
  std::filesystem::path above = std::filesystem::canonical(directory, error);
  while (above.has_relative_path()) {
    above = above.parent_path();
    if (stat(above.c_str(), &status) == 0) above_.emplace_back(status.st_dev, status.st_ino);
  }
}

bool OwnFiles::may_be_ours(uint64_t device, uint64_t inode, const timespec& changed) const {
  for (const Directory& directory : directories_)
    if ((directory.device == device || directory.file_device == device) &&
        (!times_tell_ || changed.tv_sec >= directory.since)) {
      const Elsewhere file{device, inode, changed.tv_sec, changed.tv_nsec};
      if (!times_tell_ || place_for(inode) != file) return true;
      break;
    }
  return is_proc_device(device).value_or(true) || is_own_file(device, inode) ||
         is_recorder_program(device, inode);
}

bool OwnFiles::is_directory(const struct stat& status) const {
  return std::any_of(directories_.begin(), directories_.end(), [&](const Directory& directory) {
    return directory.device == status.st_dev && directory.inode == status.st_ino;
  });
}

bool OwnFiles::is_above(const struct stat& status) const {
  return std::ranges::find(above_, std::pair<uint64_t, uint64_t>(status.st_dev, status.st_ino)) !=
         above_.end();
}

bool OwnFiles::holds(int fd, const struct stat& status, HostThread& host) const {
  const bool same_device = std::ranges::any_of(directories_, [&](const Directory& directory) {
    return directory.device == status.st_dev || directory.file_device == status.st_dev;
  });
  if (!same_device) return false;
  if (is_directory(status)) return true;
  std::optional<bool> found = lies_in(fd, status);
  if (!found) {
    host.run([&] {
      found = lies_in(fd, status);
      if (!found) found = is_listed(status);
    });
  }
  timespec now{};
  if (!*found && S_ISREG(status.st_mode) && clock_gettime(CLOCK_REALTIME, &now) == 0 &&
      status.st_ctim.tv_sec < now.tv_sec - kClockSlack)
    place_for(status.st_ino) = {status.st_dev, status.st_ino, status.st_ctim.tv_sec, status.st_ctim.tv_nsec};
  return *found;
}

// By the path that the kernel tells, which has no links in it. Nothing where that leads elsewhere for the
// caller.
std::optional<bool> OwnFiles::lies_in(int fd, const struct stat& status) const {
  const std::string path = descriptor_path(fd);
  struct stat found {};
  if (path.empty() || stat(path.c_str(), &found) != 0 || found.st_dev != status.st_dev ||
      found.st_ino != status.st_ino)
    return std::nullopt;
  std::string folder = path.substr(0, path.rfind('/') + 1);
  constexpr int kLevels = 4;  // DIR/processes/N/pt
  for (int level = 0; level < kLevels; ++level, folder += "../") {
    struct stat parent {};
    if (stat(folder.c_str(), &parent) != 0) return std::nullopt;
    if (is_directory(parent)) return true;
  }
  return false;
}

// Slow, and right whatever paths mean.
bool OwnFiles::is_listed(const struct stat& status) const {
  for (const Directory& directory : directories_) {
    std::error_code error;
    std::filesystem::recursive_directory_iterator entry(directory.path, error), end;
    for (; !error && entry != end; entry.increment(error)) {
      struct stat found {};
      if (lstat(entry->path().c_str(), &found) == 0 && found.st_dev == status.st_dev &&
          found.st_ino == status.st_ino)
        return true;
    }
  }
  return false;
}

}  // namespace aftercheck
