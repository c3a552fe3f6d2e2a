// A program that moves in its standard output, a regular file: the file is the same after a replay.
// expect-output: SECOND line
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "check.h"

static void say(int fd, const char* text) { CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text)); }

int main(void) {
  struct stat out;
  char name[100];
  CHECK(fstat(1, &out) == 0);
  say(1, "first line\nsecond line\nthird line\n");
  if (!S_ISREG(out.st_mode)) {
    CHECK_ERRNO(lseek(1, 0, SEEK_CUR), ESPIPE);
    CHECK_ERRNO(pwrite(1, "x", 1, 0), ESPIPE);
    return 0;
  }
  const off_t end = lseek(1, 0, SEEK_CUR), start = end - 34;
  // As a linker writes its headers when it knows them.
  CHECK(lseek(1, start + 11, SEEK_SET) == start + 11);
  say(1, "SECOND");
  CHECK(pwrite(1, "FIRST", 5, start) == 5 && pwritev(1, &(struct iovec){"THIRD", 5}, 1, start + 23) == 5);
  CHECK(lseek(1, 0, SEEK_END) >= end);
  say(1, "fourth line\n");
  // A hole, and its end cut off again.
  CHECK(lseek(1, 100, SEEK_CUR) >= 100);
  say(1, "far away\n");
  CHECK(ftruncate(1, lseek(1, 0, SEEK_CUR) - 5) == 0 && lseek(1, 0, SEEK_END) > 0);
  say(1, "\n");
  // Other descriptors of the same file have positions of their own.
  const int again = open("/proc/self/fd/1", O_WRONLY | O_APPEND);
  CHECK(again >= 0);
  say(again, "by its link\n");
  say(1, "over it\n");
  sprintf(name, "/proc/self/fd/%d", 1);
  char path[4000];
  const ssize_t length = readlink(name, path, sizeof path - 1);
  CHECK(length > 0);
  path[length] = 0;
  const int named = open(path, O_RDWR);
  CHECK(named >= 0 && lseek(named, 0, SEEK_END) > 0);
  say(named, "by its name\n");
  char byte;
  CHECK(lseek(named, start, SEEK_SET) == start && read(named, &byte, 1) == 1);
  say(named, "-");
  CHECK(lseek(1, 0, SEEK_END) > 0);
  say(1, "longer than it will be\n");
  CHECK(truncate(path, lseek(1, 0, SEEK_CUR) - 4) == 0);
  CHECK(fallocate(1, 0, lseek(1, 0, SEEK_CUR), 3) == 0);
  if (!(fcntl(1, F_GETFL) & O_APPEND)) say(1, "the end\n");
  return 0;
}
