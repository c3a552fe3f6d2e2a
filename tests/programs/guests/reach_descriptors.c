// The recorder's descriptors, which begin where the guest's end, are reached by no name: not below
// /proc/self/fd, nor through links, other threads' folders, or the working directory.
#include "reach.h"

int main(void) {
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const char* folders[] = {"/proc/self/fd", "/dev/fd", "/proc/thread-self/fd", "/proc/self/task/../fd"};
  const int folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY),
            proc = open("/proc", O_PATH | O_DIRECTORY);
  CHECK(folder >= 0 && proc >= 0);
  for (int fd = (int)limit.rlim_cur; fd < (int)limit.rlim_cur + 64; ++fd) {
    char number[300], path[300];
    snprintf(number, sizeof number, "%d", fd);
    // All ways for the first ones, which the recorder has in any case; the rest by one.
    const int count = fd < (int)limit.rlim_cur + 12 ? 4 : 1;
    for (int i = 0; i < count; ++i) {
      snprintf(path, sizeof path, "%s/%d", folders[i], fd);
      refuse_followed(AT_FDCWD, path);
      refuse_itself(AT_FDCWD, path);
      refuse_readlink(AT_FDCWD, path);
    }
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    refuse_itself(AT_FDCWD, path);
    if (count == 1) continue;
    refuse_links(path);
    snprintf(path, sizeof path, "/proc/%d/task/%d/fd/%d", getpid(), getpid(), fd);
    refuse_followed(AT_FDCWD, path);
    refuse_links(path);
    snprintf(path, sizeof path, "self/fd/%d", fd);
    refuse_followed(proc, path);
    refuse_followed(folder, number);
    refuse_itself(folder, number);
    refuse_readlink(folder, number);
    snprintf(path, sizeof path, "/proc/self/fd/%d/%d", folder, fd);
    refuse_followed(AT_FDCWD, path);
    snprintf(path, sizeof path, "/proc/self/fd/%d/.", fd);
    refuse_followed(AT_FDCWD, path);
    snprintf(path, sizeof path, "/proc/self/fd/%d/store", fd);
    refuse_followed(AT_FDCWD, path);
  }
  CHECK(chdir("/proc/self/fd") == 0);
  char number[20];
  snprintf(number, sizeof number, "%d", (int)limit.rlim_cur);
  refuse_followed(AT_FDCWD, number);
  refuse_itself(AT_FDCWD, number);
  // The guest's own are there as ever.
  struct stat by_name, by_number;
  CHECK(stat("/proc/self/fd/0", &by_name) == 0 && fstat(0, &by_number) == 0);
  CHECK(by_name.st_ino == by_number.st_ino && by_name.st_dev == by_number.st_dev);
  const int again = open("0", O_RDONLY);
  CHECK(again >= 0 && fstat(again, &by_name) == 0 && by_name.st_ino == by_number.st_ino);
  printf("no way in\n");
  return 0;
}
