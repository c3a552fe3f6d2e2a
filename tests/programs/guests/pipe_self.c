// A pipe to itself: full, empty, non-blocking, closed.
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "check.h"

int main(void) {
  int ends[2];
  char buffer[1000];
  CHECK(pipe2(ends, O_NONBLOCK) == 0);
  CHECK_ERRNO(read(ends[0], buffer, 10), EAGAIN);
  size_t total = 0;
  for (;;) {
    const ssize_t n = write(ends[1], buffer, sizeof buffer);
    if (n < 0) break;
    total += (size_t)n;
  }
  CHECK(errno == EAGAIN && total > 60000);
  int there;
  CHECK(ioctl(ends[0], FIONREAD, &there) == 0 && (size_t)there == total);
  struct pollfd poll_set[2] = {{ends[0], POLLIN, 0}, {ends[1], POLLOUT, 0}};
  CHECK(poll(poll_set, 2, 0) == 1 && poll_set[0].revents == POLLIN && poll_set[1].revents == 0);
  size_t got = 0;
  while (got < total) {
    const ssize_t n = read(ends[0], buffer, sizeof buffer);
    CHECK(n > 0);
    got += (size_t)n;
  }
  CHECK(write(ends[1], "hello", 5) == 5);
  close(ends[1]);
  CHECK(read(ends[0], buffer, 100) == 5 && memcmp(buffer, "hello", 5) == 0);
  CHECK(read(ends[0], buffer, 100) == 0);
  printf("%zu through %d\n", total, fcntl(ends[0], F_GETPIPE_SZ));
  return 0;
}
