// Descriptors: the guest can't find, close or overwrite those that are not its own.
// expect-output: still recorded
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "check.h"

static int open_count(void) {
  int count = 0;
  DIR* directory = opendir("/proc/self/fd");
  CHECK(directory);
  for (struct dirent* e; (e = readdir(directory));) {
    if (e->d_name[0] == '.') continue;
    CHECK(atoi(e->d_name) < 100);
    ++count;
  }
  closedir(directory);
  return count - 1;
}

int main(void) {
  closefrom(3);  // what the test was started with
  CHECK(open_count() == 3);
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const int most = (int)limit.rlim_cur;
  CHECK(dup2(0, most - 1) == most - 1 && close(most - 1) == 0);
  CHECK_ERRNO(dup2(0, most), EBADF);
  CHECK_ERRNO(fcntl(0, F_DUPFD, most), EINVAL);
  // A limit is for new numbers.
  const struct rlimit lower = {most / 2, limit.rlim_max};
  CHECK(dup2(0, most - 1) == most - 1 && setrlimit(RLIMIT_NOFILE, &lower) == 0);
  CHECK(dup2(most - 1, most - 1) == most - 1);
  CHECK_ERRNO(dup2(0, most - 1), EBADF);
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0 && close(most - 1) == 0);
  int inside = 0;
  for (int fd = 3; fd < most + 2000; ++fd) inside += fcntl(fd, F_GETFD) != -1 || close(fd) == 0;
  CHECK(inside == 0);
  CHECK(dup(0) == 3 && dup(0) == 4 && fcntl(0, F_DUPFD_CLOEXEC, 60) == 60);
  CHECK(syscall(SYS_close_range, 4u, ~0u, 0) == 0 && fcntl(3, F_GETFD) == 0 && fcntl(60, F_GETFD) == -1);
  CHECK(dup(3) == 4 && syscall(SYS_close_range, 3u, ~0u, 4u) == 0 && fcntl(4, F_GETFD) == FD_CLOEXEC);
  closefrom(3);
  CHECK(open_count() == 3);
  for (int i = 0; i < 50; ++i) CHECK(open("/dev/null", O_RDONLY) == 3 + i);
  puts("still recorded");
  return 0;
}
