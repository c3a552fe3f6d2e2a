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
#include <array>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <string_view>
#include <utility>

#include "base/fd.h"
#include "kvm-recorder/proc_files.h"
#include "kvm-recorder/process_numbers.h"
#include "kvm-recorder/reach.h"
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

// As the call has it; empty where it can't be read, and the kernel will say so.
NameOfFile name_for(const Call& call, const Name& name) {
  NameOfFile file;
  file.directory = name.directory;
  if (!call.process.memory.read_string(call.args[name.index], file.path, PATH_MAX)) file.path.clear();
  return file;
}

// Of glibc's headers on x86-64 it is 0.
constexpr uint64_t kLargeFile = 0100000;  // O_LARGEFILE, include/uapi/asm-generic/fcntl.h

// What open and openat make of their arguments (build_open_how, fs/open.c): unlike openat2 they pass over
// what they don't know.
open_how plain_how(uint64_t flags, uint64_t mode) {
  constexpr uint64_t kKnown = O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK |
                              O_SYNC | O_DSYNC | O_ASYNC | O_DIRECT | kLargeFile | O_DIRECTORY | O_NOFOLLOW |
                              O_NOATIME | O_CLOEXEC | O_PATH | O_TMPFILE;
  constexpr uint64_t kOfPath = O_DIRECTORY | O_NOFOLLOW | O_PATH | O_CLOEXEC;
  open_how how{};
  how.flags = static_cast<uint32_t>(flags) & kKnown;
  if (how.flags & O_PATH) how.flags &= kOfPath;
  if ((how.flags & O_CREAT) || (how.flags & O_TMPFILE) == O_TMPFILE) how.mode = mode & 07777;
  return how;
}

open_how how_of(const Call& call) {
  open_how how{};
  switch (call.row.number) {
    case SYS_open:
      return plain_how(call.args[1], call.args[2]);
    case SYS_openat:
      return plain_how(call.args[2], call.args[3]);
    case SYS_openat2:
      call.process.memory.read_object(call.args[2], how);
      return how;
    default:
      return plain_how(O_WRONLY | O_CREAT | O_TRUNC, call.args[1]);  // creat
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

// Errors that tell what is at the end of a name, or within it: for the guest it may not be there.
bool tells(long result) {
  return result == -ENOTDIR || result == -EISDIR || result == -EACCES || result == -EPERM || result == -ENXIO;
}

// Something that may be the recorder's, or of its process in /proc.
long answered_by_guest(Call& call, long fd, uint64_t flags) {
  if (const int error = refusal(call.process, static_cast<int>(fd))) return replaced_by(fd, -error, flags);
  const std::optional<ProcEntry> entry = proc_entry(static_cast<int>(fd));
  ProcAnswer answer;
  if (entry)
    answer = answer_proc_entry(call.process, *entry);
  else if (const auto other =
               has_other_processes(call.process) ? entry_of_other(static_cast<int>(fd)) : std::nullopt)
    answer = answer_entry_of_other(*call.process.tree, *other, static_cast<int>(fd));
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
void find_stream(Call& call, int fd, const Name& name, uint64_t flags) {
  Descriptors& descriptors = call.process.descriptors;
  const std::string path = name_for(call, name).path;
  const bool error = path.ends_with("/stderr") || path.ends_with("/fd/2");
  descriptors.arrived(fd, error ? 2 : 1);
  const uint8_t stream = descriptors.stream(fd);
  if (stream != 0 && descriptors.place(stream).regular && (flags & O_TRUNC) != 0)
    output_resized(call, stream, 0);
}

// Where the name leads, before the file that is there is cut or one is made.
long open_reached(Call& call, const Name& name, const open_how& how, const std::array<uint64_t, 6>& args) {
  NameOfFile file = name_for(call, name);
  file.followed = !(how.flags & O_NOFOLLOW) && (how.flags & (O_CREAT | O_EXCL)) != (O_CREAT | O_EXCL);
  file.made = (how.flags & O_CREAT) != 0;
  file.resolve = how.resolve;
  const Reached reached = reach(call.process, file);
  if (reached.error != 0) return -reached.error;
  if (reached.instead.empty()) return blocking_call(call, call.row.number, args);
  // The program that runs (deny_write_access(), include/linux/fs.h).
  if (!(how.flags & O_PATH) && (how.flags & (O_ACCMODE | O_TRUNC)) != O_RDONLY) return -ETXTBSY;
  const uint64_t plain = how.flags & ~static_cast<uint64_t>(O_CREAT | O_EXCL | O_TRUNC);
  return host_call(SYS_open, host_pointer(reached.instead.c_str()), plain);
}

// The descriptor, or a result as of blocking_call(). Most names lead through no link of /proc: the kernel
// says so on the way, and what is open then is what is looked at.
long open_file(Call& call, const Name& name, const open_how& how, bool& looked_at) {
  std::array<uint64_t, 6> args;
  if (!prepare(call, args)) return -EBADF;
  // Of O_TMPFILE the name is the folder's.
  const bool makes = (how.flags & O_CREAT) != 0 || (how.flags & O_TMPFILE) == O_TMPFILE;
  const bool changes = (makes || (how.flags & O_TRUNC) != 0) && !(how.flags & O_PATH);
  const bool extended = call.row.number == SYS_openat2 && call.args[3] != sizeof how;
  looked_at = changes || extended;
  if (looked_at) return open_reached(call, name, how, args);
  open_how plainly = how;
  plainly.resolve |= RESOLVE_NO_MAGICLINKS;
  const std::array<uint64_t, 6> host = {static_cast<uint64_t>(name.directory), args[name.index],
                                        host_pointer(&plainly), sizeof plainly};
  const long fd = blocking_call(call, SYS_openat2, host);
  looked_at = fd == -ELOOP || fd == -ENOSYS || tells(fd);
  return looked_at ? open_reached(call, name, how, args) : fd;
}

}  // namespace

namespace calls {

long open(Call& call) {
  const Name name = name_of(call);
  const open_how how = how_of(call);
  bool looked_at = false;
  const long fd = interrupted_result(call, within_limit(call.process, open_file(call, name, how, looked_at)));
  if (fd < 0) return fd;
  struct stat status {};
  if (fstat(static_cast<int>(fd), &status) != 0) return fd;
  const bool doubtful =
      looked_at ? is_proc_device(status.st_dev).value_or(true)
                : call.process.own_files.may_be_ours(status.st_dev, status.st_ino, status.st_ctim);
  // A security module's label of the thread is changed by a write to its folder in /proc (attr/current).
  if (doubtful && (how.flags & O_ACCMODE) != O_RDONLY) call.process.memory.host_thread().keep_apart();
  if (doubtful) {
    const long answered = answered_by_guest(call, fd, how.flags);
    if (answered < 0) return answered;
  }
  if (S_ISREG(status.st_mode) && (how.flags & O_TRUNC) != 0) share_changed(call, status);
  if (S_ISREG(status.st_mode))
    call.process.memory.opened(call.answer, static_cast<int>(fd), status, how.flags);
  find_stream(call, static_cast<int>(fd), name, how.flags);
  return fd;
}

// The kernel's answer is looked at before the guest has it: it may be a path of the recorder's.
long readlink(Call& call) {
  std::array<uint64_t, 6> args;
  if (!prepare(call, args)) return -EBADF;
  const Name name = name_of(call);
  const size_t buffer = name.index + 1;
  const auto room = static_cast<int32_t>(call.args[buffer + 1]);
  std::array<char, PATH_MAX> target;
  if (room > 0) args[buffer + 1] = std::min<size_t>(static_cast<size_t>(room), target.size());
  args[buffer] = host_pointer(target.data());
  const long size = host_call(call.row.number, args[0], args[1], args[2], args[3]);
  if (size <= 0 && !tells(size)) return size;

  NameOfFile file = name_for(call, name);
  file.followed = false;
  const auto answer = [&](std::string_view text) -> long {
    text = text.substr(0, static_cast<size_t>(room));
    return call.answer.write(call.args[buffer], text.data(), text.size()) ? static_cast<long>(text.size())
                                                                          : -EFAULT;
  };
  if (size > 0 && is_clearly_elsewhere(call.process, file))
    return answer({target.data(), static_cast<size_t>(size)});
  Reached reached;
  if (file.path.empty()) {
    reached.error = refusal(call.process, name.directory);  // of the link that is open
  } else {
    reached = reach(call.process, file);
  }
  if (reached.error != 0) return -reached.error;
  if (size <= 0) return size;
  std::string_view text(target.data(), static_cast<size_t>(size));
  const std::optional<ProcEntry> entry =
      proc_entry(file.path.empty() ? name.directory : reached.object.get());
  if (entry && entry->name == "exe") text = call.process.executable;
  std::string of_other;
  if (!entry && call.process.tree != nullptr) {
    const int object = file.path.empty() ? name.directory : reached.object.get();
    const std::optional<OtherProcEntry> other = entry_of_other(object);
    std::error_code error;
    if (other && other->name == "exe")
      of_other = std::filesystem::read_symlink(call.process.tree->executable_of(other->process), error);
  }
  return answer(of_other.empty() ? text : of_other);
}

namespace {

struct Identity {
  uint64_t device = 0, inode = 0;
  timespec changed{};
};

// What the kernel has just told of the file.
Identity identity_in(const Call& call, size_t buffer) {
  if (call.row.number == SYS_statx) {
    struct statx status {};
    call.process.memory.read_object(call.args[buffer], status);
    constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();
    return {makedev(status.stx_dev_major, status.stx_dev_minor), status.stx_ino,
            status.stx_mask & STATX_CTIME ? timespec{status.stx_ctime.tv_sec, status.stx_ctime.tv_nsec}
                                          : timespec{kUnknown, 0}};
  }
  struct stat status {};
  call.process.memory.read_object(call.args[buffer], status);
  return {status.st_dev, status.st_ino, status.st_ctim};
}

}  // namespace

// stat, lstat, newfstatat, statx. The kernel's answer tells whether a second look is needed.
long stat(Call& call) {
  const long result = pass(call);
  if (result != 0 && !tells(result)) return result;
  const Name name = name_of(call);
  const bool extended = call.row.number == SYS_statx;
  if (result == 0) {
    const Identity found = identity_in(call, extended ? 4 : name.index + 1);
    if (!call.process.own_files.may_be_ours(found.device, found.inode, found.changed) &&
        !has_number(name_for(call, name).path))
      return result;
  }
  NameOfFile file = name_for(call, name);
  const uint64_t flags = name.index == 0 ? 0 : extended ? call.args[2] : call.args[3];
  file.followed = call.row.number != SYS_lstat && !(flags & AT_SYMLINK_NOFOLLOW);
  Reached reached = reach(call.process, file);
  struct stat status {};
  if (reached.error == EACCES && reached.object && fstat(reached.object.get(), &status) == 0 &&
      call.process.own_files.is_directory(status))
    return result;  // that it is there is no secret
  if (reached.error != 0) return -reached.error;
  if (reached.instead.empty()) return result;
  call.instead = std::move(reached.instead);
  call.instead_of = name.index;
  return pass(call);
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
  const bool to_itself = call.row.number == SYS_dup2 && call.fd(0) == call.fd(1);
  if (!to_itself && call.fd(1) >= end_of_descriptors(call.process))
    return -EBADF;  // beyond the guest's RLIMIT_NOFILE
  const long result = pass(call);
  if (result >= 0) call.process.descriptors.duplicated(call.fd(0), call.fd(1));
  return result;
}

// The kernel stores both before anybody can see whether they are the guest's to have: it stores them here.
long two_descriptors(Call& call) {
  std::array<uint64_t, 6> args;
  if (!prepare(call, args)) return -EBADF;
  const size_t index = call.row.number == SYS_socketpair ? 3 : 0;
  std::array<int, 2> fds{-1, -1};
  const uint64_t address = args[index];
  args[index] = host_pointer(fds.data());
  long result = host_call(call.row.number, args[0], args[1], args[2], args[3]);
  const auto close_both = [&](long error) {
    for (const int fd : fds) close_host(fd);
    return error;
  };
  if (result == 0 && std::max(fds[0], fds[1]) >= end_of_descriptors(call.process)) return close_both(-EMFILE);
  // socketpair may store both and fail afterwards (net/socket.c, __sys_socketpair).
  const bool stored = result == 0 || fds[0] != -1;
  if (stored && !call.answer.write(address, fds.data(), sizeof fds))
    return result == 0 ? close_both(-EFAULT) : -EFAULT;
  return result;
}

long pidfd_getfd(Call& call) {
  if (!call.process.descriptors.allowed(call.fd(0))) return -EBADF;
  const std::optional<pid_t> process = process_of_pidfd(call.fd(0), call.process.memory.host_thread());
  if (!process) return -EBADF;
  if (whose(*process) != Whose::other && !call.process.descriptors.allowed(call.fd(1))) return -EBADF;
  const long fd = pass(call);
  if (fd >= 0) call.process.descriptors.arrived(static_cast<int>(fd));
  if (fd >= 0) call.process.signals.descriptor_arrived(static_cast<int>(fd));
  return fd;
}

namespace {

// Removes the recorder's descriptors or threads from directory entries; gives how many bytes remain.
size_t without_own_entries(std::vector<char>& entries, size_t name_offset,
                           const std::function<bool(const char*)>& is_own) {
  size_t kept = 0;
  constexpr size_t kLengthOffset = 16;  // d_reclen, after d_ino and d_off
  for (size_t at = 0; at + name_offset < entries.size();) {
    uint16_t length = 0;
    std::memcpy(&length, &entries[at + kLengthOffset], sizeof length);
    if (length == 0 || at + length > entries.size()) break;
    const char* name = &entries[at + name_offset];
    const bool number = *name >= '0' && *name <= '9';
    if (!number || !is_own(name)) {
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
    const std::optional<ProcEntry> entry = proc_entry(call.fd(0));
    if (!entry) return size;
    const bool threads = entry->name == "task";
    if (!threads && entry->name != "fd" && entry->name != "fdinfo") return size;
    std::vector<char> entries(static_cast<size_t>(size));
    call.process.memory.read(call.args[1], entries.data(), entries.size());
    const size_t kept = without_own_entries(entries, name_offset, [&](const char* name) {
      return threads ? is_recorder_thread(call.fd(0), name) : is_own_fd(std::atoi(name));
    });
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
