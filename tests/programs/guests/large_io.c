// 20 MB through a pipe that another process fills, in reads of odd sizes; large writes and vectors to a file.
// setup: mkfifo big
// beside: bash -c 'head -c 20000000 /dev/urandom > big; sleep 100'
#include <fcntl.h>
#include <stdint.h>
#include <sys/uio.h>

#include "check.h"

static unsigned char buffer[3 << 20];

int main(void) {
  const int fd = open("big", O_RDONLY), out = open("copy", O_RDWR | O_CREAT, 0600);
  CHECK(fd >= 0 && out >= 0);
  uint64_t total = 0, sum = 0, reads = 0;
  for (ssize_t n; (n = read(fd, buffer, 1 + (total * 7919) % sizeof buffer)) > 0; ++reads) {
    for (ssize_t i = 0; i < n; i += 64) sum = sum * 31 + buffer[i];
    CHECK(write(out, buffer, (size_t)n) == n);
    total += (uint64_t)n;
  }
  CHECK(total == 20000000);
  printf("%lu bytes, sum %016lx\n", total, sum);
  struct iovec parts[3] = {{buffer, 1 << 20}, {buffer + (1 << 20), 5}, {buffer + (2 << 20), 1 << 20}};
  CHECK(preadv(out, parts, 3, 1000) == (2 << 20) + 5);
  CHECK(pwritev(out, parts, 3, 30000000) == (2 << 20) + 5);
  CHECK(pread(out, buffer, 10, 30000000 + (1 << 20) + 3) == 10);
  for (int i = 0; i < 10; ++i) printf("%02x", buffer[i]);
  putchar('\n');
  return 0;
}
