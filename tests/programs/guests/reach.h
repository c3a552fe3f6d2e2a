// For guests that try to get at the recorder's files: every call that takes a name, none of which may
// succeed.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <utime.h>

#include "check.h"

static int refused(long result) {
  // EXDEV: of a number that no thread has; rename and link look at file systems first.
  if (result == -1 && (errno == ENOENT || errno == EACCES || errno == EXDEV)) return 1;
  printf("result %ld, errno %d\n", result, errno);
  return 0;
}
#define REFUSED(call)                                                       \
  do {                                                                      \
    errno = 0;                                                              \
    if (!refused(call)) {                                                   \
      printf("FAILED: %s:%d: %s of %s\n", __FILE__, __LINE__, #call, name); \
      fflush(stdout);                                                       \
      _exit(1);                                                             \
    }                                                                       \
  } while (0)

static long openat2_call(int directory, const char* name, unsigned long flags, unsigned long resolve) {
  struct open_how how = {.flags = flags, .resolve = resolve};
  return syscall(SYS_openat2, directory, name, &how, sizeof how);
}

static long socket_call(const char* name, int bound) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(name) >= sizeof address.sun_path) return errno = ENOENT, -1;
  strcpy(address.sun_path, name);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  const int result = bound ? bind(fd, (struct sockaddr*)&address, sizeof address)
                           : connect(fd, (struct sockaddr*)&address, sizeof address);
  const int error = errno;
  close(fd);
  errno = error;
  return result;
}

// Calls that go to what the name leads to.
__attribute__((unused)) static void refuse_followed(int directory, const char* name) {
  struct stat status;
  struct statx extended;
  char buffer[256];
  const struct timespec times[2] = {{1, 0}, {1, 0}};
  REFUSED(openat(directory, name, O_RDONLY | O_NONBLOCK));
  REFUSED(openat(directory, name, O_RDWR));
  REFUSED(openat(directory, name, O_WRONLY | O_TRUNC));
  REFUSED(openat(directory, name, O_WRONLY | O_CREAT, 0666));
  REFUSED(openat(directory, name, O_RDWR | O_CREAT | O_TRUNC, 0666));
  REFUSED(openat(directory, name, O_PATH));
  REFUSED(openat2_call(directory, name, O_RDWR, 0));
  REFUSED(openat2_call(directory, name, O_PATH, 0));
  REFUSED(openat2_call(directory, name, O_WRONLY | O_TRUNC, 0));
  REFUSED(fstatat(directory, name, &status, 0));
  REFUSED(statx(directory, name, 0, STATX_BASIC_STATS, &extended));
  REFUSED(faccessat(directory, name, F_OK, 0));
  REFUSED(faccessat(directory, name, R_OK, AT_EACCESS));
  REFUSED(fchmodat(directory, name, 0777, 0));
  REFUSED(fchownat(directory, name, getuid(), getgid(), 0));
  REFUSED(utimensat(directory, name, times, 0));
  REFUSED(syscall(SYS_futimesat, directory, name, NULL));
  REFUSED(linkat(directory, name, AT_FDCWD, "linked", AT_SYMLINK_FOLLOW));
  char* arguments[] = {"x", NULL};
  REFUSED(syscall(SYS_execveat, directory, name, arguments, arguments, 0));
  if (directory != AT_FDCWD) return;
  REFUSED(open(name, O_RDONLY));
  REFUSED(creat(name, 0666));
  REFUSED(stat(name, &status));
  REFUSED(access(name, R_OK));
  REFUSED(truncate(name, 0));
  REFUSED(chmod(name, 0777));
  REFUSED(chown(name, getuid(), getgid()));
  REFUSED(utime(name, NULL));
  REFUSED(utimes(name, NULL));
  REFUSED(setxattr(name, "user.x", "y", 1, 0));
  REFUSED(getxattr(name, "user.x", buffer, sizeof buffer));
  REFUSED(listxattr(name, buffer, sizeof buffer));
  REFUSED(removexattr(name, "user.x"));
  REFUSED(chdir(name));
  struct statfs system;
  REFUSED(statfs(name, &system));
  REFUSED(execve(name, arguments, arguments));
  REFUSED(socket_call(name, 0));
  const int watcher = inotify_init();
  CHECK(watcher >= 0);
  REFUSED(inotify_add_watch(watcher, name, IN_MODIFY));
  close(watcher);
}

// Calls that mean the name's end itself.
__attribute__((unused)) static void refuse_itself(int directory, const char* name) {
  struct stat status;
  struct statx extended;
  char buffer[256];
  int mount;
  struct {
    struct file_handle head;
    char room[128];
  } handle = {.head.handle_bytes = sizeof handle.room};
  REFUSED(fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW));
  REFUSED(statx(directory, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &extended));
  REFUSED(openat(directory, name, O_PATH | O_NOFOLLOW));
  REFUSED(unlinkat(directory, name, 0));
  REFUSED(renameat(directory, name, AT_FDCWD, "renamed"));
  REFUSED(fchownat(directory, name, getuid(), getgid(), AT_SYMLINK_NOFOLLOW));
  REFUSED(linkat(directory, name, AT_FDCWD, "linked", 0));
  REFUSED(name_to_handle_at(directory, name, &handle.head, &mount, 0));
  if (directory != AT_FDCWD) return;
  REFUSED(lstat(name, &status));
  REFUSED(lchown(name, getuid(), getgid()));
  REFUSED(link(name, "linked"));
  REFUSED(rename(name, "renamed"));
  REFUSED(unlink(name));
  REFUSED(lgetxattr(name, "user.x", buffer, sizeof buffer));
}

__attribute__((unused)) static void refuse_readlink(int directory, const char* name) {
  char target[4096] = "untouched";
  REFUSED(readlinkat(directory, name, target, sizeof target));
  CHECK(strcmp(target, "untouched") == 0);
}

// The same through links of the guest's own.
__attribute__((unused)) static void refuse_links(const char* name) {
  unlink("link");
  unlink("second");
  CHECK(symlink(name, "link") == 0 && symlink("link", "second") == 0);
  refuse_followed(AT_FDCWD, "link");
  refuse_followed(AT_FDCWD, "./second");
  char path[300];
  snprintf(path, sizeof path, "/proc/self/cwd/%s", "second");
  refuse_followed(AT_FDCWD, path);
  CHECK(unlink("link") == 0 && unlink("second") == 0);
}
