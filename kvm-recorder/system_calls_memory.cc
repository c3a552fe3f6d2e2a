// Calls that change the guest's mappings. Semantics: mm/mmap.c, mm/mremap.c, mm/madvise.c of the kernel and
// the manual pages; what the kernel would do to its own mappings happens to the guest's, inside the windows.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "kvm-recorder/guest_threads.h"
#include "kvm-recorder/memory_limits.h"
#include "kvm-recorder/placement.h"
#include "kvm-recorder/process_tree.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

constexpr uint64_t kProtBits = PROT_READ | PROT_WRITE | PROT_EXEC;

// 0 when it would overflow.
uint64_t rounded_length(uint64_t length) { return length > UINT64_MAX - kPageSize ? 0 : page_up(length); }

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

// There are none reserved. The size in the flags must be one of the processor's (mm/hugetlb.c,
// hstate_sizelog).
long huge_pages(uint64_t flags) {
  const uint64_t size = flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK;
  const bool known =
      size == 0 || size == (MAP_HUGE_2MB >> MAP_HUGE_SHIFT) || size == (MAP_HUGE_1GB >> MAP_HUGE_SHIFT);
  return (flags & MAP_ANONYMOUS) != 0 && known ? -ENOMEM : -EINVAL;
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
  if (flags & MAP_HUGETLB) return huge_pages(flags);
  return 0;
}

// Limits and marks of a mapping to be made; 0 or -errno in the kernel's order (do_mmap, mmap_region).
struct Marks {
  bool grows_down = false, locked = false;
};
long check_limits(GuestProcess& process, uint64_t flags, int prot, Range place, bool shared, Marks& marks) {
  marks.grows_down = (flags & MAP_GROWSDOWN) != 0;
  marks.locked = process.lock_future || (flags & MAP_LOCKED) != 0;
  if (marks.locked)
    if (const long error = may_lock(process, place.size())) return error;
  const bool fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
  if (!within_limits(process, place.size(), is_data(shared, prot, marks.grows_down), fixed ? place : Range{}))
    return -ENOMEM;
  const bool accounted = !shared && (prot & PROT_WRITE) != 0 && (flags & MAP_NORESERVE) == 0;
  return accounted && !could_ever_be_had(place.size()) ? -ENOMEM : 0;
}

// The file may be one that other processes of the recording have mapped, too, or will.
long share_file(Call& call, int fd) {
  if (!has_other_processes(call.process)) return 0;
  switch (call.process.memory.sees(fd)) {
    case LoggedSpace::Sees::nobody:
      return 0;
    case LoggedSpace::Sees::others:
      call.process.threads->share_memory(call.task);
      return 0;
    case LoggedSpace::Sees::copy:
      break;
  }
  return cannot_record(
      call,
      fmt::format("mmap (of {}, which another process has mapped as a file that nobody changes)",
                  path_of(fd)),
      EACCES);
}

// The one place where two mappings may merge for the kernel's eyes: a range over several of ours is one to
// mremap if each goes on where the one before ends, of the same kind.
bool one_mapping(const AddressSpace& space, Range range) {
  const Mapping* mapping = space.find(range.start);
  return mapping != nullptr && mapping->end >= range.end;
}

// personality(2): what may be read may be executed, too.
void imply_execution(Call& call) {
  if ((call.process.personality & READ_IMPLIES_EXEC) != 0 && (call.args[2] & PROT_READ) != 0)
    call.args[2] |= PROT_EXEC;
}

}  // namespace

namespace calls {

long mmap(Call& call) {
  imply_execution(call);
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
  if ((flags & MAP_GROWSDOWN) && (shared || !(flags & MAP_ANONYMOUS))) return -EINVAL;
  Range place;
  if (const long error = choose_place(call.process, hint, length, flags, place)) return error;
  Marks marks;
  if (const long error = check_limits(call.process, flags, prot, place, shared, marks)) return error;
  if (!choice.anonymous && shared)
    if (const long error = share_file(call, fd)) return error;
  LoggedSpace& memory = call.process.memory;
  const int result = choice.anonymous
                         ? memory.map_anonymous(call.answer, place, prot, shared)
                         : memory.map_file(call.answer, place, prot, fd, offset, path_of(fd), choice.how);
  if (result != 0) return result;
  if (marks.grows_down) memory.space().mark(place, &Mapping::grows_down, true);
  if (marks.locked) memory.space().mark(place, &Mapping::locked, true);
  return static_cast<long>(place.start);
}

// Holes are as good as mappings, and outside the windows there are only holes.
long munmap(Call& call) {
  const uint64_t start = call.args[0], length = rounded_length(call.args[1]);
  if (!page_aligned(start) || length == 0 || start > kUserEnd || length > kUserEnd - start) return -EINVAL;
  for (const Range& part : parts_in_windows({start, start + length}))
    if (!is_free(call.process.memory.space(), part))
      if (const int error = call.process.memory.unmap(call.answer, part)) return error;
  return 0;
}

// mm/mprotect.c, do_mprotect_pkey(): what lies before a hole, or before what must not change, is changed.
long mprotect(Call& call) {
  imply_execution(call);
  constexpr uint64_t kKnown = kProtBits | PROT_SEM | PROT_GROWSDOWN | PROT_GROWSUP;
  const auto [start_asked, length_asked, prot_asked, d, e, f] = call.args;
  const uint64_t grows = prot_asked & (PROT_GROWSDOWN | PROT_GROWSUP);
  if (grows == (PROT_GROWSDOWN | PROT_GROWSUP) || !page_aligned(start_asked)) return -EINVAL;
  if (length_asked == 0) return 0;
  const uint64_t length = rounded_length(length_asked), end = start_asked + length;
  if (length == 0 || end <= start_asked) return -ENOMEM;
  if ((prot_asked & ~kKnown) != 0 || grows == PROT_GROWSUP) return -EINVAL;
  const AddressSpace& space = call.process.memory.space();
  uint64_t start = start_asked;
  if (grows == PROT_GROWSDOWN) {
    const auto next = space.mappings().upper_bound(start);
    const Mapping* first = space.find(start);
    if (first == nullptr && next != space.mappings().end()) first = &next->second;
    if (first == nullptr || first->start >= end) return -ENOMEM;
    if (!first->grows_down) return -EINVAL;
    start = first->start;
  }
  const int prot = static_cast<int>(prot_asked & kProtBits);
  Range allowed{start, start};
  long result = 0;
  while (allowed.end < end && result == 0) {
    const Mapping* mapping = space.find(allowed.end);
    if (mapping == nullptr) {
      result = -ENOMEM;
      break;
    }
    if ((prot & ~mapping->may) != 0) {
      result = -EACCES;
      break;
    }
    const uint64_t part_end = std::min(mapping->end, end), size = part_end - allowed.end;
    const bool was = is_data(mapping->shared, mapping->prot, mapping->grows_down),
               becomes = is_data(mapping->shared, prot, mapping->grows_down);
    if (becomes && !was && !within_limits(call.process, size, true) &&
        within_limits(call.process, size, false))
      result = -ENOMEM;
    else
      allowed.end = part_end;
  }
  if (allowed.size() != 0)
    if (const int error = call.process.memory.protect(call.answer, allowed, prot)) return error;
  return result;
}

namespace {

long remap_fixed(Call& call, Range from, uint64_t new_length, uint64_t target) {
  LoggedSpace& memory = call.process.memory;
  if (!page_aligned(target) || !may_be_guest(target, new_length)) return -EINVAL;
  const Range to{target, target + new_length};
  if (to.start < from.end && from.start < to.end) return -EINVAL;
  if (!one_mapping(memory.space(), from)) return -EFAULT;
  if (const int error = memory.space().claim(to)) return error;
  if (const int error = memory.unmap(call.answer, to)) return error;
  const int result = memory.remap(call.answer, from, to);
  return result == 0 ? static_cast<long>(to.start) : result;
}

long remap_growing(Call& call, Range from, uint64_t new_length, bool may_move) {
  LoggedSpace& memory = call.process.memory;
  if (!one_mapping(memory.space(), from)) return -EFAULT;
  const Mapping old = *memory.space().find(from.start);
  const uint64_t more = new_length - from.size();
  if (old.locked)
    if (const long error = may_lock(call.process, more)) return error;
  if (!within_limits(call.process, more, is_data(old.shared, old.prot, old.grows_down))) return -ENOMEM;
  const Range in_place{from.start, from.start + new_length};
  if (in_windows(from.start, new_length) && is_free(memory.space(), {from.end, in_place.end})) {
    const int result = memory.remap(call.answer, from, in_place);
    return result == 0 ? static_cast<long>(from.start) : result;
  }
  if (!may_move) return -ENOMEM;
  const std::optional<Range> to = find_place(call.process, new_length);
  if (!to) return -ENOMEM;
  const int result = memory.remap(call.answer, from, *to);
  return result == 0 ? static_cast<long>(to->start) : result;
}

// MREMAP_DONTUNMAP: the pages move, and where they were is a mapping without pages.
long remap_keeping(Call& call, Range from, uint64_t flags, uint64_t target) {
  LoggedSpace& memory = call.process.memory;
  if (!one_mapping(memory.space(), from)) return -EFAULT;
  const Mapping old = *memory.space().find(from.start);
  if (old.shared || old.backing != Backing::anonymous) {  // these came with Linux 5.13
    tell_once(call.process, "mremap MREMAP_DONTUNMAP",
              "the guest called mremap(MREMAP_DONTUNMAP) on shared memory or a file: not supported, answered "
              "EINVAL");
    return -EINVAL;
  }
  if (!within_limits(call.process, from.size(), is_data(false, old.prot, old.grows_down))) return -ENOMEM;
  long moved = 0;
  if (flags & MREMAP_FIXED) {
    moved = remap_fixed(call, from, from.size(), target);
  } else {
    const std::optional<Range> to = find_place(call.process, from.size());
    if (!to) return -ENOMEM;
    moved = memory.remap(call.answer, from, *to);
    if (moved == 0) moved = static_cast<long>(to->start);
  }
  if (moved < 0) return moved;
  const int error = memory.map_anonymous(call.answer, from, old.prot, false, old.name);
  if (error == 0 && old.grows_down) memory.space().mark(from, &Mapping::grows_down, true);
  return error != 0 ? error : moved;
}

}  // namespace

long mremap(Call& call) {
  const auto [start, old_asked, new_asked, flags, target, f] = call.args;
  const uint64_t old_length = rounded_length(old_asked), new_length = rounded_length(new_asked);
  if ((flags & ~static_cast<uint64_t>(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)) ||
      !page_aligned(start))
    return -EINVAL;
  if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) && !(flags & MREMAP_MAYMOVE)) return -EINVAL;
  if ((flags & MREMAP_DONTUNMAP) && old_length != new_length) return -EINVAL;
  if (new_length == 0) return -EINVAL;
  const Mapping* mapping = call.process.memory.space().find(start);
  if (mapping == nullptr || !in_windows(start, std::max(old_length, kPageSize))) return -EFAULT;
  if (old_length == 0) {  // would map shared memory a second time
    if (!mapping->shared) return -EINVAL;
    tell_once(call.process, "mremap 0",
              "the guest called mremap with an old size of 0, to map shared memory a second time: "
              "not supported, answered ENOMEM");
    return -ENOMEM;
  }
  if (new_length > kUserEnd) return -ENOMEM;
  const Range from{start, start + old_length};
  if (flags & MREMAP_DONTUNMAP) return remap_keeping(call, from, flags, target);
  if (flags & MREMAP_FIXED) return remap_fixed(call, from, new_length, target);
  if (new_length > old_length) return remap_growing(call, from, new_length, (flags & MREMAP_MAYMOVE) != 0);
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
    if (wanted - process.heap_start > soft_limit(process, RLIMIT_DATA) ||
        !within_limits(process, more.size(), true) || !could_ever_be_had(more.size()) ||
        (process.lock_future && may_lock(process, more.size()) != 0))
      return unchanged;
    if (process.memory.map_anonymous(call.answer, more, PROT_READ | PROT_WRITE, false, "[heap]") != 0)
      return unchanged;
    if (process.lock_future) process.memory.space().mark(more, &Mapping::locked, true);
  } else if (new_end < old_end) {
    if (process.memory.unmap(call.answer, {new_end, old_end}) != 0) return unchanged;
  }
  process.heap_end = wanted;
  return static_cast<long>(wanted);
}

}  // namespace calls
}  // namespace aftercheck
