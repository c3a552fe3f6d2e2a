// Names and descriptors: what must not lead the guest to the recorder's own files, and what /proc answers.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/fd.h"
#include "kvm-recorder/proc_files.h"
#include "kvm-recorder/resource_limits.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

// Which argument is the name, and which directory it is relative to.
struct Name {
  int directory = AT_FDCWD;
  size_t index = 0;
};

Name name_of(const Call& call) {
  if (call.row.args[0].kind == ArgKind::fd) return {call.fd(0), 1};
  return {AT_FDCWD, 0};
}

// The name that the kernel has just read without complaint, so it is readable.
std::string text_of(const Call& call, const Name& name) {
  return reinterpret_cast<const char*>(call.args[name.index]);
}

uint64_t open_flags(const Call& call) {
  switch (call.row.number) {
    case SYS_open:
      return call.args[1];
    case SYS_openat:
      return call.args[2];
    case SYS_openat2: {
      open_how how{};
      call.process.memory.read_object(call.args[2], how);
      return how.flags;
    }
    default:
      return O_WRONLY | O_CREAT | O_TRUNC;  // creat
  }
}

void close_host(long fd) { host_call(SYS_close, static_cast<uint64_t>(fd)); }

// `replacement` (or -errno) takes the place of `fd`.
long replaced_by(long fd, long replacement, uint64_t flags) {
  if (replacement < 0) {
    close_host(fd);
    return replacement;
  }
  const long result =
      host_call(SYS_dup3, static_cast<uint64_t>(replacement), static_cast<uint64_t>(fd), flags & O_CLOEXEC);
  close_host(replacement);
  return result;
}

long answered_by_guest(Call& call, long fd, uint64_t flags) {
  const std::optional<std::string> entry = own_proc_entry(static_cast<int>(fd));
  if (!entry) return fd;
  const ProcAnswer answer = answer_proc_entry(call.process, *entry);
  switch (answer.kind) {
    case ProcAnswer::Kind::forbidden:
      return replaced_by(fd, -EACCES, flags);
    case ProcAnswer::Kind::contents:
      return replaced_by(fd, open_contents(answer.contents, (flags & O_CLOEXEC) != 0), flags);
    case ProcAnswer::Kind::kernel:
      break;
  }
  return fd;
}

// Another way to the recorder's output: /dev/stdout, /proc/self/fd/N, /dev/tty, or the name of a file.
void find_stream(Call& call, int fd, std::string_view name) {
  Descriptors& descriptors = call.process.descriptors;
  const bool error = name.ends_with("/stderr") || name.ends_with("/fd/2");
  descriptors.arrived(fd, error ? 2 : 1);
  const uint8_t stream = descriptors.stream(fd);
  if (stream != 0 && descriptors.place(stream).regular && (open_flags(call) & O_TRUNC) != 0)
    output_resized(call, stream, 0);
}

bool ends_in_digit(const Call& call, const Name& name) {
  const char* text = reinterpret_cast<const char*>(call.args[name.index]);
  const size_t size = std::strlen(text);
  return size > 0 && text[size - 1] >= '0' && text[size - 1] <= '9';
}

}  // namespace

namespace calls {

long open(Call& call) {
  const long fd = pass(call);
  if (fd < 0) return fd;
  struct stat status {};
  if (fstat(static_cast<int>(fd), &status) != 0) return fd;
  const Name name = name_of(call);
  if (ends_in_digit(call, name) && is_own_descriptor_link(name.directory, text_of(call, name)))
    return replaced_by(fd, -ENOENT, 0);
  if (is_recorder_program(status.st_dev, status.st_ino) &&
      is_own_executable_link(name.directory, text_of(call, name))) {
    const uint64_t flags = open_flags(call);
    const uint64_t plain = flags & ~static_cast<uint64_t>(O_CREAT | O_EXCL | O_TRUNC);
    if ((flags & O_ACCMODE) != O_RDONLY) return replaced_by(fd, -ETXTBSY, flags);
    const std::string program = call.process.executable_path();
    return replaced_by(fd, host_call(SYS_open, host_pointer(program.c_str()), plain | O_CLOEXEC), flags);
  }
  // File systems without a device (proc among them) have major number 0: the others need no further look.
  if (major(status.st_dev) == 0 && !S_ISFIFO(status.st_mode)) {
    const long answered = answered_by_guest(call, fd, open_flags(call));
    if (answered < 0) return answered;
  }
  if (S_ISREG(status.st_mode))
    call.process.memory.opened(call.answer, static_cast<int>(fd), status, open_flags(call));
  find_stream(call, static_cast<int>(fd), text_of(call, name));
  return fd;
}

long readlink(Call& call) {
  const long size = pass(call);
  if (size <= 0) return size;
  const Name name = name_of(call);
  const size_t buffer = name.index + 1;
  if (ends_in_digit(call, name) && is_own_descriptor_link(name.directory, text_of(call, name)))
    return -ENOENT;
  static const std::string recorder = [] {
    std::array<char, 4096> target;
    const ssize_t length = ::readlink("/proc/self/exe", target.data(), target.size());
    return std::string(target.data(), static_cast<size_t>(std::max<ssize_t>(length, 0)));
  }();
  const auto* target = reinterpret_cast<const char*>(call.args[buffer]);
  const auto length = static_cast<size_t>(size);
  if (length > recorder.size() || std::memcmp(target, recorder.data(), length) != 0) return size;
  if (!is_own_executable_link(name.directory, text_of(call, name))) return size;
  const std::string& executable = call.process.executable;
  const auto room = static_cast<size_t>(static_cast<uint32_t>(call.args[buffer + 1]));
  const size_t shown = std::min(room, executable.size());
  if (!call.answer.write(call.args[buffer], executable.data(), shown)) return -EFAULT;
  return static_cast<long>(shown);
}

// stat, newfstatat, statx of /proc/self/exe, which follow the link to the recorder's program.
long stat(Call& call) {
  const long result = pass(call);
  if (result != 0) return result;
  const Name name = name_of(call);
  const bool extended = call.row.number == SYS_statx;
  const uint64_t flags = name.index == 0 ? 0 : extended ? call.args[2] : call.args[3];
  if (flags & AT_SYMLINK_NOFOLLOW) return result;
  uint64_t device = 0, inode = 0;
  if (extended) {
    const auto& status = *reinterpret_cast<const struct statx*>(call.args[4]);
    device = makedev(status.stx_dev_major, status.stx_dev_minor);
    inode = status.stx_ino;
  } else {
    const auto& status = *reinterpret_cast<const struct stat*>(call.args[name.index + 1]);
    device = status.st_dev;
    inode = status.st_ino;
  }
  if (!is_recorder_program(device, inode) || call.args[name.index] == 0) return result;
  if (!is_own_executable_link(name.directory, text_of(call, name))) return result;
  std::array<uint64_t, 6> args = call.args;
  const std::string program = call.process.executable_path();
  args[name.index] = host_pointer(program.c_str());
  const long renewed = host_call(call.row.number, args[0], args[1], args[2], args[3], args[4]);
  note_writes(call, args, renewed);
  return renewed;
}

long close(Call& call) {
  const long result = pass(call);
  if (result != -EBADF) call.process.descriptors.closed(call.fd(0));  // closed even on EIO and EINTR
  return result;
}

// The range without the recorder's own descriptors, piece by piece.
long close_range(Call& call) {
  const auto first = static_cast<uint32_t>(call.args[0]), last = static_cast<uint32_t>(call.args[1]);
  constexpr uint32_t kUnshare = 1U << 1, kCloexec = 1U << 2;  // linux/close_range.h
  const auto flags = static_cast<uint32_t>(call.args[2]);
  if ((flags & ~(kUnshare | kCloexec)) != 0 || first > last) return -EINVAL;
  const auto close_piece = [&](uint32_t from, uint32_t to) {
    // Nobody shares the guest's table, so there is nothing to unshare (and the recorder's threads share it).
    if (from <= to) host_call(SYS_close_range, from, to, flags & kCloexec);
  };
  constexpr uint32_t kOwnRange = 64;  // base/fd.cc registers no number beyond
  const auto floor = static_cast<uint32_t>(own_fd_floor());
  uint32_t from = first;
  for (uint32_t fd = std::max(first, floor); fd <= last && fd < floor + kOwnRange; fd++) {
    if (!is_own_fd(static_cast<int>(fd))) continue;
    if (fd > from) close_piece(from, fd - 1);
    from = fd + 1;
  }
  close_piece(from, last);
  if (!(flags & kCloexec)) call.process.descriptors.closed_range(first, last);
  return 0;
}

long dup(Call& call) {
  const long result = pass(call);
  if (result >= 0) call.process.descriptors.duplicated(call.fd(0), static_cast<int>(result));
  return result;
}

// dup2, dup3.
long dup2(Call& call) {
  if (call.fd(1) >= end_of_descriptors(call.process)) return -EBADF;  // beyond the guest's RLIMIT_NOFILE
  const long result = pass(call);
  if (result >= 0) call.process.descriptors.duplicated(call.fd(0), call.fd(1));
  return result;
}

namespace {

// The process of a pidfd, by what the kernel tells of it (Documentation/filesystems/proc.rst, 3.8); 0: none.
pid_t process_of(int pidfd) {
  std::array<std::byte, 1024> text;
  const UniqueFd info(::open(fmt::format("/proc/self/fdinfo/{}", pidfd).c_str(), O_RDONLY | O_CLOEXEC));
  if (!info) return 0;
  const std::string_view all(reinterpret_cast<const char*>(text.data()), read_file(info.get(), 0, text));
  constexpr std::string_view kField = "\nPid:\t";
  const size_t at = all.find(kField);
  return at == std::string_view::npos ? 0 : std::atoi(std::string(all.substr(at + kField.size())).c_str());
}

}  // namespace

long pidfd_getfd(Call& call) {
  const pid_t process = call.process.descriptors.allowed(call.fd(0)) ? process_of(call.fd(0)) : 0;
  if (process == 0) return -EBADF;
  const bool own = process > 0 && access(fmt::format("/proc/self/task/{}", process).c_str(), F_OK) == 0;
  if (own && !call.process.descriptors.allowed(call.fd(1))) return -EBADF;
  const long fd = pass(call);
  if (fd >= 0) call.process.descriptors.arrived(static_cast<int>(fd));
  return fd;
}

namespace {

// Removes the recorder's descriptors from `bytes` of directory entries; gives what remains.
size_t without_own_entries(std::vector<char>& entries, size_t name_offset) {
  size_t kept = 0;
  constexpr size_t kLengthOffset = 16;  // d_reclen, after d_ino and d_off
  for (size_t at = 0; at + name_offset < entries.size();) {
    uint16_t length = 0;
    std::memcpy(&length, &entries[at + kLengthOffset], sizeof length);
    if (length == 0 || at + length > entries.size()) break;
    const char* name = &entries[at + name_offset];
    const bool number = *name >= '0' && *name <= '9';
    if (!number || !is_own_fd(std::atoi(name))) {
      std::memmove(&entries[kept], &entries[at], length);
      kept += length;
    }
    at += length;
  }
  return kept;
}

}  // namespace

long getdents(Call& call) {
  const size_t name_offset =
      call.row.number == SYS_getdents ? 18 : 19;  // linux_dirent, linux_dirent64: d_name
  for (;;) {
    const long size = pass(call);
    if (size <= 0) return size;
    const std::optional<std::string> entry = own_proc_entry(call.fd(0));
    if (entry != "fd" && entry != "fdinfo") return size;
    std::vector<char> entries(static_cast<size_t>(size));
    call.process.memory.read(call.args[1], entries.data(), entries.size());
    const size_t kept = without_own_entries(entries, name_offset);
    call.answer.write(call.args[1], entries.data(), kept);
    if (kept > 0) return static_cast<long>(kept);  // 0 would mean the end
  }
}

// struct file_handle starts with the room behind it, and the kernel sets what it needed.
long name_to_handle_at(Call& call) {
  constexpr uint64_t kHeader = 8;
  uint32_t room = 0;
  std::array<uint64_t, 6> args;
  if (!prepare(call, args)) return -EBADF;
  call.process.memory.read_object(args[2], room);
  args[2] = guest_pointer(args[2], kHeader + room);
  FailedWrites watched;
  watched.watch(args[2], kHeader + room);
  watched.watch(args[3], sizeof(int));
  const long result = host_call(call.row.number, args[0], args[1], args[2], args[3], args[4]);
  if (result < 0) watched.note(call);
  if (result == 0 || result == -EOVERFLOW) {
    uint32_t used = 0;
    call.process.memory.read_object(args[2], used);
    call.answer.written(args[2], kHeader + (result == 0 ? std::min(used, room) : 0));
    note_reachable(call, args[3], sizeof(int));
  }
  return result;
}

}  // namespace calls
}  // namespace aftercheck
