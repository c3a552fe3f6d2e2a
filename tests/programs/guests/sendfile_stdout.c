// Bytes that go from file to standard output without passing the program: it must fall back, and its output
// must be there in a replay.
// expect-output: through the program
#include <fcntl.h>
#include <sys/sendfile.h>

#include "check.h"

int main(void) {
  static const char text[] = "through the program\n";
  const int fd = open("file", O_RDWR | O_CREAT, 0600), other = open("other", O_RDWR | O_CREAT, 0600);
  CHECK(write(fd, text, sizeof text - 1) == sizeof text - 1);
  off_t offset = 0;
  CHECK(sendfile(other, fd, &offset, 10) == 10 && offset == 10);
  offset = 0;
  if (sendfile(1, fd, &offset, sizeof text) < 0) {
    CHECK(errno == EINVAL);
    char buffer[100];
    const ssize_t n = pread(fd, buffer, sizeof buffer, 0);
    CHECK(write(1, buffer, (size_t)n) == n);
  }
  offset = 0;
  loff_t to = 100;
  CHECK(copy_file_range(fd, &offset, other, &to, 5, 0) == 5 && to == 105);
  return 0;
}
