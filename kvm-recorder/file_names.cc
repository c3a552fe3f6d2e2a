#include "kvm-recorder/file_names.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <iterator>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452  // arch/x86/entry/syscalls/syscall_64.tbl
#endif

namespace aftercheck {
namespace {

using enum FileName::End;
constexpr uint8_t kNone = FileName::kNone;

// The calls' manual pages. Ordered by number, as file_names() wants it.
constexpr FileName kNames[] = {
    {SYS_open, 0, handler},
    {SYS_stat, 0, handler},
    {SYS_lstat, 0, handler},
    {SYS_access, 0, asked},
    {SYS_execve, 0, handler},
    {SYS_truncate, 0, followed},
    {SYS_chdir, 0, followed},
    {SYS_rename, 0, moved},
    {SYS_rename, 1, made},
    {SYS_mkdir, 0, made},
    {SYS_rmdir, 0, itself},
    {SYS_creat, 0, handler},
    {SYS_link, 0, itself},
    {SYS_link, 1, made},
    {SYS_unlink, 0, itself},
    {SYS_symlink, 0, no_file},
    {SYS_symlink, 1, made},
    {SYS_readlink, 0, handler},
    {SYS_chmod, 0, followed},
    {SYS_chown, 0, followed},
    {SYS_lchown, 0, itself},
    {SYS_utime, 0, followed},
    {SYS_mknod, 0, made},
    {SYS_statfs, 0, followed},
    {SYS_chroot, 0, followed},
    {SYS_setxattr, 0, followed},
    {SYS_setxattr, 1, no_file},
    {SYS_lsetxattr, 0, itself},
    {SYS_lsetxattr, 1, no_file},
    {SYS_fsetxattr, 1, no_file},
    {SYS_getxattr, 0, followed},
    {SYS_getxattr, 1, no_file},
    {SYS_lgetxattr, 0, itself},
    {SYS_lgetxattr, 1, no_file},
    {SYS_fgetxattr, 1, no_file},
    {SYS_listxattr, 0, followed},
    {SYS_llistxattr, 0, itself},
    {SYS_removexattr, 0, followed},
    {SYS_removexattr, 1, no_file},
    {SYS_lremovexattr, 0, itself},
    {SYS_lremovexattr, 1, no_file},
    {SYS_fremovexattr, 1, no_file},
    {SYS_utimes, 0, followed},
    {SYS_mq_open, 0, no_file},
    {SYS_mq_unlink, 0, no_file},
    {SYS_add_key, 0, no_file},
    {SYS_add_key, 1, no_file},
    {SYS_request_key, 0, no_file},
    {SYS_request_key, 1, no_file},
    {SYS_request_key, 2, no_file},
    {SYS_inotify_add_watch, 1, followed, kNone, 2, IN_DONT_FOLLOW},
    {SYS_openat, 1, handler, 0},
    {SYS_mkdirat, 1, made, 0},
    {SYS_mknodat, 1, made, 0},
    {SYS_fchownat, 1, followed, 0, 4, AT_SYMLINK_NOFOLLOW},
    {SYS_futimesat, 1, followed, 0},
    {SYS_newfstatat, 1, handler, 0},
    {SYS_unlinkat, 1, itself, 0},
    {SYS_renameat, 1, moved, 0},
    {SYS_renameat, 3, made, 2},
    {SYS_linkat, 1, itself, 0, 4, AT_SYMLINK_FOLLOW},
    {SYS_linkat, 3, made, 2},
    {SYS_symlinkat, 0, no_file},
    {SYS_symlinkat, 2, made, 1},
    {SYS_readlinkat, 1, handler, 0},
    {SYS_fchmodat, 1, followed, 0},
    {SYS_faccessat, 1, asked, 0},
    {SYS_utimensat, 1, followed, 0, 3, AT_SYMLINK_NOFOLLOW},
    {SYS_name_to_handle_at, 1, itself, 0, 4, AT_SYMLINK_FOLLOW},
    {SYS_renameat2, 1, moved, 0},
    {SYS_renameat2, 3, made, 2},
    {SYS_memfd_create, 0, no_file},
    {SYS_execveat, 1, handler, 0},
    {SYS_statx, 1, handler, 0},
    {SYS_openat2, 1, handler, 0},
    {SYS_faccessat2, 1, asked, 0, 3, AT_SYMLINK_NOFOLLOW},
    {SYS_fchmodat2, 1, followed, 0, 3, AT_SYMLINK_NOFOLLOW},
};
static_assert(std::ranges::is_sorted(kNames, {}, &FileName::call));

// By number: every call of the guest looks here.
struct Place {
  uint8_t first = 0, count = 0;
};
constexpr auto kPlaces = [] {
  std::array<Place, kNames[std::size(kNames) - 1].call + 1> places{};
  for (uint8_t i = 0; i < std::size(kNames); ++i) {
    Place& place = places[kNames[i].call];
    if (place.count++ == 0) place.first = i;
  }
  return places;
}();

}  // namespace

std::span<const FileName> file_names(uint16_t call) {
  if (call >= kPlaces.size()) return {};
  return std::span(kNames).subspan(kPlaces[call].first, kPlaces[call].count);
}

}  // namespace aftercheck
