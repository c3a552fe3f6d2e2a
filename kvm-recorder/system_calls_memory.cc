// Calls that change the guest's mappings. Semantics: mm/mmap.c, mm/mremap.c, mm/madvise.c of the kernel and
// the manual pages; what the kernel would do to its own mappings happens to the guest's, inside the windows.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

constexpr uint64_t kProtBits = PROT_READ | PROT_WRITE | PROT_EXEC;

bool page_aligned(uint64_t address) { return (address & (kPageSize - 1)) == 0; }

// 0 when it would overflow.
uint64_t rounded_length(uint64_t length) { return length > UINT64_MAX - kPageSize ? 0 : page_up(length); }

bool is_free(const AddressSpace& space, Range range) {
  const auto& mappings = space.mappings();
  auto next = mappings.lower_bound(range.start);
  if (next != mappings.end() && next->second.start < range.end) return false;
  return next == mappings.begin() || std::prev(next)->second.end <= range.start;
}

// Where mmap puts a new mapping, or -errno.
long choose_place(GuestProcess& process, uint64_t hint, uint64_t length, uint64_t flags, Range& place) {
  const AddressSpace& space = process.memory.space();
  if (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) {
    if (!page_aligned(hint)) return -EINVAL;
    if (!in_windows(hint, length)) {
      tell_once(
          process, "mmap outside",
          fmt::format(
              "the guest asked mmap for the fixed address {:#x} (+{:#x}), which lies outside the guest's "
              "windows: answered ENOMEM",
              hint, length));
      return -ENOMEM;
    }
    place = {hint, hint + length};
    return (flags & MAP_FIXED_NOREPLACE) && !is_free(space, place) ? -EEXIST : 0;
  }
  const uint64_t wanted = hint > UINT64_MAX - kPageSize ? 0 : page_up(hint);
  if (wanted != 0 && !(flags & MAP_32BIT) && in_windows(wanted, length)) {
    place = {wanted, wanted + length};
    if (is_free(space, place)) return 0;
  }
  const Range window = flags & MAP_32BIT ? kLowWindow : kMainWindow;
  // Below the stack, as the kernel's mmap_base; above it there is only what address randomisation left free.
  std::optional<Range> found;
  if (!(flags & MAP_32BIT)) found = space.find_free(length, process.stack.start, window);
  if (!found) found = space.find_free(length, 0, window);
  if (!found) return -ENOMEM;
  place = *found;
  return 0;
}

std::string path_of(int fd) {
  char path[PATH_MAX];
  const std::string link = fmt::format("/proc/self/fd/{}", fd);
  const ssize_t size = ::readlink(link.c_str(), path, sizeof path);
  return size > 0 ? std::string(path, static_cast<size_t>(size)) : std::string();
}

struct FileChoice {
  bool anonymous = false;  // /dev/zero
  LoggedSpace::FileMapping how{};
};

// What kind of mapping the file allows; 0 or -errno in the kernel's order (do_mmap).
long check_file(GuestProcess& process, int fd, uint64_t prot, bool shared, FileChoice& choice) {
  struct stat status {};
  const long flags = process.descriptors.allowed(fd) ? host_call(SYS_fcntl, fd, F_GETFL) : -EBADF;
  if (flags < 0) return -EBADF;
  if (flags & O_PATH) return -EBADF;
  if (fstat(fd, &status) != 0) return -EBADF;
  const long mode = flags & O_ACCMODE;
  if (mode == O_WRONLY) return -EACCES;
  if (shared && (prot & PROT_WRITE) && mode != O_RDWR) return -EACCES;
  if (S_ISCHR(status.st_mode) &&
      status.st_rdev == makedev(1, 5)) {  // /dev/zero, Documentation/admin-guide/devices.txt
    choice.anonymous = true;
    return 0;
  }
  if (!S_ISREG(status.st_mode)) {
    if (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode))
      tell_once(
          process, "mmap device",
          fmt::format("the guest called mmap on the device {}: not supported, answered ENODEV", path_of(fd)));
    return -ENODEV;
  }
  struct statvfs file_system {};
  if (fstatvfs(fd, &file_system) != 0) file_system.f_flag = 0;
  if ((prot & PROT_EXEC) && (file_system.f_flag & ST_NOEXEC)) return -EPERM;
  if ((file_system.f_flag & ST_NOEXEC) != 0) choice.how.may &= ~PROT_EXEC;
  const long seals = shared ? host_call(SYS_fcntl, fd, F_GET_SEALS) : 0;  // EINVAL where there can't be any
  const bool sealed = seals > 0 && (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0;
  if (sealed && (prot & PROT_WRITE)) return -EPERM;
  if (shared && (mode != O_RDWR || sealed)) choice.how.may &= ~PROT_WRITE;
  choice.how.shared = shared;
  return 0;
}

long check_flags(uint64_t flags, bool& shared) {
  switch (flags & MAP_TYPE) {
    case MAP_PRIVATE:
      shared = false;
      break;
    case MAP_SHARED:
      shared = true;
      break;
    case MAP_SHARED_VALIDATE:
      if (flags & MAP_SYNC) return -EOPNOTSUPP;
      shared = true;
      break;
    default:
      return -EINVAL;
  }
  if (flags & MAP_HUGETLB) return -ENOMEM;  // as with no huge pages reserved
  return 0;
}

// The one place where two mappings may merge for the kernel's eyes: a range over several of ours is one to
// mremap if each goes on where the one before ends, of the same kind.
bool one_mapping(const AddressSpace& space, Range range) {
  const Mapping* mapping = space.find(range.start);
  return mapping != nullptr && mapping->end >= range.end;
}

}  // namespace

namespace calls {

long mmap(Call& call) {
  const auto [hint, length_asked, prot_asked, flags, fd_value, offset] = call.args;
  const int prot = static_cast<int>(prot_asked & kProtBits);
  if (!page_aligned(offset) || length_asked == 0) return -EINVAL;
  const uint64_t length = rounded_length(length_asked);
  if (length == 0) return -ENOMEM;
  if (offset > UINT64_MAX - length) return -EOVERFLOW;
  bool shared = false;
  if (const long error = check_flags(flags, shared)) return error;
  FileChoice choice{(flags & MAP_ANONYMOUS) != 0};
  const int fd = call.fd(4);
  static_cast<void>(fd_value);
  if (!choice.anonymous)
    if (const long error = check_file(call.process, fd, prot_asked, shared, choice)) return error;
  Range place;
  if (const long error = choose_place(call.process, hint, length, flags, place)) return error;
  LoggedSpace& memory = call.process.memory;
  const int result = choice.anonymous
                         ? memory.map_anonymous(call.answer, place, prot, shared)
                         : memory.map_file(call.answer, place, prot, fd, offset, path_of(fd), choice.how);
  return result == 0 ? static_cast<long>(place.start) : result;
}

long munmap(Call& call) {
  const uint64_t start = call.args[0], length = rounded_length(call.args[1]);
  if (!page_aligned(start) || length == 0 || !in_windows(start, length)) return -EINVAL;
  return call.process.memory.unmap(call.answer, {start, start + length});
}

namespace {

// The first mapping of the range that must not have all of `prot`; the range's end where there is none.
uint64_t first_denied(const AddressSpace& space, Range range, int prot) {
  for (uint64_t at = range.start; at < range.end;) {
    const Mapping* mapping = space.find(at);
    if (mapping == nullptr) break;  // a hole: the mappings' affair
    if ((prot & ~mapping->may) != 0) return at;
    at = mapping->end;
  }
  return range.end;
}

}  // namespace

long mprotect(Call& call) {
  constexpr uint64_t kKnown = kProtBits | PROT_SEM | PROT_GROWSDOWN | PROT_GROWSUP;
  const auto [start, length_asked, prot, d, e, f] = call.args;
  const uint64_t grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP);
  if ((prot & ~kKnown) || !page_aligned(start) || grows == (PROT_GROWSDOWN | PROT_GROWSUP)) return -EINVAL;
  if (length_asked == 0) return 0;
  const uint64_t length = rounded_length(length_asked);
  if (length == 0 || !in_windows(start, length)) return -ENOMEM;
  LoggedSpace& memory = call.process.memory;
  const int wanted = static_cast<int>(prot & kProtBits);
  const Range allowed{start, first_denied(memory.space(), {start, start + length}, wanted)};
  if (allowed.end == start + length) return memory.protect(call.answer, allowed, wanted);
  // What lies before has been changed when the kernel comes to what it denies.
  const int error = allowed.size() == 0 ? 0 : memory.protect(call.answer, allowed, wanted);
  return error == 0 ? -EACCES : error;
}

namespace {

long remap_fixed(Call& call, Range from, uint64_t new_length, uint64_t target) {
  LoggedSpace& memory = call.process.memory;
  if (!page_aligned(target) || !in_windows(target, new_length)) return -EINVAL;
  const Range to{target, target + new_length};
  if (to.start < from.end && from.start < to.end) return -EINVAL;
  if (!one_mapping(memory.space(), from)) return -EFAULT;
  if (const int error = memory.unmap(call.answer, to)) return error;
  const int result = memory.remap(call.answer, from, to);
  return result == 0 ? static_cast<long>(to.start) : result;
}

long remap_growing(Call& call, Range from, uint64_t new_length, bool may_move) {
  LoggedSpace& memory = call.process.memory;
  if (!one_mapping(memory.space(), from)) return -EFAULT;
  const Range in_place{from.start, from.start + new_length};
  if (in_windows(from.start, new_length) && is_free(memory.space(), {from.end, in_place.end})) {
    const int result = memory.remap(call.answer, from, in_place);
    return result == 0 ? static_cast<long>(from.start) : result;
  }
  if (!may_move) return -ENOMEM;
  const std::optional<Range> to = memory.space().find_free(new_length, call.process.stack.start);
  if (!to) return -ENOMEM;
  const int result = memory.remap(call.answer, from, *to);
  return result == 0 ? static_cast<long>(to->start) : result;
}

}  // namespace

long mremap(Call& call) {
  const auto [start, old_asked, new_asked, flags, target, f] = call.args;
  const uint64_t old_length = rounded_length(old_asked), new_length = rounded_length(new_asked);
  if ((flags & ~static_cast<uint64_t>(MREMAP_MAYMOVE | MREMAP_FIXED)) || !page_aligned(start)) return -EINVAL;
  if ((flags & MREMAP_FIXED) && !(flags & MREMAP_MAYMOVE)) return -EINVAL;
  if (new_length == 0 || old_length == 0) return -EINVAL;  // old 0 would map shared pages a second time
  if (!in_windows(start, old_length)) return -EFAULT;
  if (new_length > kMainWindow.size()) return -ENOMEM;
  const Range from{start, start + old_length};
  if (flags & MREMAP_FIXED) return remap_fixed(call, from, new_length, target);
  if (new_length > old_length) return remap_growing(call, from, new_length, (flags & MREMAP_MAYMOVE) != 0);
  if (call.process.memory.space().find(start) == nullptr) return -EFAULT;
  if (new_length < old_length)
    if (const int error = call.process.memory.unmap(call.answer, {start + new_length, from.end}))
      return error;
  return static_cast<long>(start);
}

long brk(Call& call) {
  GuestProcess& process = call.process;
  const uint64_t wanted = call.args[0], current = process.heap_end;
  const auto unchanged = static_cast<long>(current);
  if (wanted < process.heap_start || wanted > kMainWindow.end) return unchanged;
  const uint64_t old_end = page_up(current), new_end = page_up(wanted);
  if (new_end > old_end) {
    const Range more{old_end, new_end};
    if (!in_windows(more.start, more.size()) || !is_free(process.memory.space(), more)) return unchanged;
    if (process.memory.map_anonymous(call.answer, more, PROT_READ | PROT_WRITE, false, "[heap]") != 0)
      return unchanged;
  } else if (new_end < old_end) {
    if (process.memory.unmap(call.answer, {new_end, old_end}) != 0) return unchanged;
  }
  process.heap_end = wanted;
  return static_cast<long>(wanted);
}

long madvise(Call& call) {
  // Advice that changes nothing the guest can see. MADV_FREE may be ignored (madvise(2)), and must be: when
  // the pages go is up to the kernel's need for memory.
  static constexpr int kHarmless[] = {
      MADV_NORMAL,     MADV_RANDOM,   MADV_SEQUENTIAL,    MADV_WILLNEED,      MADV_FREE,
      MADV_DONTFORK,   MADV_DOFORK,   MADV_MERGEABLE,     MADV_UNMERGEABLE,   MADV_HUGEPAGE,
      MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP,        MADV_WIPEONFORK,    MADV_KEEPONFORK,
      MADV_COLD,       MADV_PAGEOUT,  MADV_POPULATE_READ, MADV_POPULATE_WRITE};
  const auto [start, length_asked, advice_value, d, e, f] = call.args;
  const int advice = static_cast<int>(advice_value);
  const bool harmless = std::find(std::begin(kHarmless), std::end(kHarmless), advice) != std::end(kHarmless);
  if (!harmless && advice != MADV_DONTNEED) return -EINVAL;
  if (!page_aligned(start)) return -EINVAL;
  if (length_asked == 0) return 0;
  const uint64_t length = rounded_length(length_asked);
  if (length == 0) return -EINVAL;
  if (!in_windows(start, length) || !call.process.memory.space().accessible(start, length, 0)) return -ENOMEM;
  return harmless ? 0 : call.process.memory.discard(call.answer, {start, start + length});
}

long mincore(Call& call) {
  const auto [start, length_asked, vector, d, e, f] = call.args;
  if (!page_aligned(start)) return -EINVAL;
  const uint64_t length = rounded_length(length_asked);
  if (!in_windows(start, length) || !call.process.memory.space().accessible(start, length, 0)) return -ENOMEM;
  const uint64_t pages = length / kPageSize;
  const uint64_t target = guest_pointer(vector, pages);
  const long result = host_call(SYS_mincore, start, length, target);
  if (result == 0) call.answer.written(target, pages);
  if (result == -EFAULT) note_reachable(call, target, pages);
  return result;
}

}  // namespace calls
}  // namespace aftercheck
