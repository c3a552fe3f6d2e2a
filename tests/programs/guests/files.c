// Directories and files: made, listed, renamed, linked, statted, removed; *at calls; extended attributes.
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

#include "check.h"

int main(void) {
  char start[PATH_MAX], now[PATH_MAX];
  CHECK(getcwd(start, sizeof start));
  CHECK(mkdir("d", 0755) == 0 && chdir("d") == 0 && getcwd(now, sizeof now) && strstr(now, start) == now);
  CHECK_ERRNO(mkdir("../d", 0755), EEXIST);
  const int dir = open(".", O_RDONLY | O_DIRECTORY);
  for (int i = 0; i < 200; ++i) {
    char name[20];
    sprintf(name, "f%d", i);
    const int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL, 0640);
    CHECK(fd >= 0 && write(fd, name, strlen(name)) > 0 && close(fd) == 0);
  }
  int count = 0;
  DIR* list = fdopendir(dup(dir));
  for (struct dirent* e; (e = readdir(list)); ++count)
    if (count < 5) printf("%s %lu\n", e->d_name, e->d_ino);
  closedir(list);
  CHECK(count == 202);
  struct stat status;
  CHECK(rename("f1", "g1") == 0 && link("g1", "g2") == 0 && stat("g2", &status) == 0 && status.st_nlink == 2);
  CHECK((status.st_mode & 07777) == 0640);
  CHECK(symlink("g1", "s") == 0 && lstat("s", &status) == 0 && S_ISLNK(status.st_mode) &&
        readlink("s", now, 100) == 2);
  CHECK(chmod("g1", 0400) == 0 && fstatat(dir, "s", &status, 0) == 0 && (status.st_mode & 0777) == 0400);
  CHECK(truncate("g2", 100000) == 0 && stat("g1", &status) == 0 && status.st_size == 100000);
  const struct timespec times[2] = {{1000, 5}, {2000, 6}};
  CHECK(utimensat(dir, "g1", times, 0) == 0 && stat("g1", &status) == 0 && status.st_mtim.tv_nsec == 6);
  struct statx extended;
  CHECK(statx(dir, "g1", 0, STATX_ALL, &extended) == 0 && extended.stx_mtime.tv_sec == 2000);
  CHECK(unlinkat(dir, "g1", 0) == 0 && access("g2", R_OK) == 0 && access("g1", F_OK) == -1);
  if (setxattr("g2", "user.test", "value", 5, 0) == 0)
    CHECK(getxattr("g2", "user.test", now, 100) == 5 && listxattr("g2", now, 100) > 9);
  const int fd = open("g2", O_RDWR);
  CHECK(lseek(fd, -10, SEEK_END) == 99990 && posix_fallocate(fd, 0, 200000) == 0 && fstat(fd, &status) == 0);
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};
  CHECK(fcntl(fd, F_SETLK, &lock) == 0 && fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type == F_UNLCK);
  struct statvfs file_system;
  CHECK(fstatvfs(fd, &file_system) == 0);
  printf("%ld %ld %lu\n", status.st_size, status.st_blocks, file_system.f_bfree);
  CHECK(chdir("..") == 0 && rename("d", "e") == 0 && fchdir(dir) == 0 && getcwd(now, sizeof now));
  CHECK(strcmp(now + strlen(now) - 2, "/e") == 0);
  return 0;
}
