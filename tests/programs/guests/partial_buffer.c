// Buffers of which only the start is mapped: a call gets as far as the memory goes.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "check.h"

int main(void) {
  char* m = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(munmap(m + 4096, 4096) == 0);
  char* edge = m + 4096 - 100;
  const int file = open("file", O_RDWR | O_CREAT, 0600);
  static char text[3000];
  memset(text, 't', sizeof text);
  CHECK(write(file, text, sizeof text) == sizeof text && lseek(file, 0, SEEK_SET) == 0);
  CHECK(read(file, edge, 1000) == 100 && edge[99] == 't');
  CHECK(lseek(file, 0, SEEK_CUR) == 100);
  memset(edge, 'e', 100);
  CHECK(write(file, edge, 1000) == 100);
  int ends[2];
  CHECK(pipe(ends) == 0 && write(ends[1], text, 3000) == 3000);
  const ssize_t got = read(ends[0], edge, 1000);
  printf("pipe: %zd %d\n", got, got < 0 ? errno : 0);
  CHECK(edge[0] == 't' || got < 0);
  int pair[2];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0 && write(pair[0], text, 500) == 500);
  CHECK_ERRNO(read(pair[1], edge, 1000), EFAULT);
  CHECK_ERRNO(open(edge, O_RDONLY), got < 0 ? EFAULT : EFAULT);  // no end before the hole
  edge[99] = 0;
  CHECK_ERRNO(open(edge, O_RDONLY), ENOENT);
  return 0;
}
