// Bytes that go from file, pipe or socket to standard output without passing the program: they must be there
// in a replay.
// expect-output: 1 BY COPYfile
// expect-output: 2 PIPE of it
// expect-output: 3 from a pipe
#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "check.h"

static void fill(int fd, const char* text) { CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text)); }

int main(void) {
  static const char text[] = "1 by sendfile\n2 more of it\n";
  static char large[300000];
  const int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600),
            other = open("other", O_RDWR | O_CREAT | O_TRUNC, 0600);
  struct stat out;
  CHECK(fstat(1, &out) == 0);
  const int to_pipe = S_ISFIFO(out.st_mode), appends = (fcntl(1, F_GETFL) & O_APPEND) != 0;
  fill(fd, text);

  // Elsewhere it is the kernel's.
  off_t offset = 0;
  CHECK(sendfile(other, fd, &offset, 10) == 10 && offset == 10);
  offset = 0;
  loff_t to = 100;
  CHECK(copy_file_range(fd, &offset, other, &to, 5, 0) == 5 && to == 105);

  // Files.
  offset = 0;
  if (appends && !to_pipe) {
    CHECK_ERRNO(sendfile(1, fd, &offset, 14), EINVAL);
  } else {
    CHECK(sendfile(1, fd, &offset, 14) == 14 && offset == 14);
    CHECK(lseek(fd, 14, SEEK_SET) == 14);
    CHECK(sendfile(1, fd, NULL, 1000) == (ssize_t)sizeof text - 1 - 14);
    CHECK(lseek(fd, 0, SEEK_CUR) == (off_t)sizeof text - 1);
    CHECK(sendfile(1, fd, NULL, 10) == 0);
    CHECK(sendfile(1, fd, NULL, 0) == 0);
    const int device = open("/proc/self/comm", O_RDONLY);  // not all of these can be spliced
    CHECK(device >= 0 && (sendfile(1, device, NULL, 100) > 0 || errno == EINVAL));
  }
  CHECK_ERRNO(sendfile(1, 99, NULL, 1), EBADF);
  CHECK_ERRNO(sendfile(1, other, (off_t*)8, 1), EFAULT);

  // Pipes.
  int ends[2];
  CHECK(pipe(ends) == 0);
  fill(ends[1], "3 from a pipe\n4 in two parts\n");
  if (appends && !to_pipe) {
    CHECK_ERRNO(splice(ends[0], NULL, 1, NULL, 14, 0), EINVAL);
  } else {
    CHECK(splice(ends[0], NULL, 1, NULL, 14, 0) == 14);
    CHECK(splice(ends[0], NULL, 1, NULL, 100, SPLICE_F_MOVE) == 15);
    CHECK_ERRNO(splice(ends[0], NULL, 1, NULL, 100, SPLICE_F_NONBLOCK), EAGAIN);
  }
  CHECK_ERRNO(splice(ends[0], &(loff_t){0}, 1, NULL, 100, 0), ESPIPE);
  CHECK_ERRNO(splice(ends[0], NULL, 1, NULL, 100, 0x100), EINVAL);
  CHECK_ERRNO(sendfile(1, ends[0], NULL, 10), EINVAL);
  if (to_pipe) {
    fill(ends[1], "5 twice\n");
    CHECK(tee(ends[0], 1, 100, 0) == 8);
    CHECK(splice(ends[0], NULL, 1, NULL, 100, 0) == 8);
    loff_t at = 2;
    CHECK(splice(fd, &at, 1, NULL, 12, 0) == 12 && at == 14);
    int sockets[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
    fill(sockets[0], "6 from a socket\n");
    CHECK(splice(sockets[1], NULL, 1, NULL, 100, 0) == 16);
    struct iovec given[2] = {{"7 given ", 8}, {"away\n", 5}};
    CHECK(vmsplice(1, given, 2, 0) == 13);
    CHECK_ERRNO(vmsplice(1, given, 2, 0x100), EINVAL);
  } else {
    CHECK_ERRNO(tee(ends[0], 1, 100, 0), EINVAL);
    CHECK_ERRNO(splice(fd, NULL, 1, NULL, 10, 0), EINVAL);
    CHECK_ERRNO(vmsplice(1, &(struct iovec){"x", 1}, 1, 0), EBADF);
    CHECK(vmsplice(1, NULL, 0, 0) == 0);
  }
  // More than a pipe holds, with the source's position.
  for (size_t i = 0; i < sizeof large; i++) large[i] = i % 80 == 79 ? '\n' : (char)('a' + i / 80 % 26);
  CHECK(lseek(fd, 0, SEEK_SET) == 0 && write(fd, large, sizeof large) == sizeof large);
  CHECK(lseek(fd, 0, SEEK_SET) == 0);
  size_t done = 0;
  while (!(appends && !to_pipe) && done < sizeof large) {
    const ssize_t n = sendfile(1, fd, NULL, sizeof large - done);
    CHECK(n > 0 && lseek(fd, 0, SEEK_CUR) == (off_t)done + n);
    done += (size_t)n;
  }

  // Pipes of the program's own get what it gives away.
  char buffer[16];
  CHECK(close(ends[0]) == 0 && close(ends[1]) == 0 && pipe(ends) == 0);
  CHECK(vmsplice(ends[1], &(struct iovec){"given", 5}, 1, SPLICE_F_GIFT) == 5);
  CHECK(vmsplice(ends[1], &(struct iovec){large, 200000}, 1, 0) > 0);
  CHECK(read(ends[0], buffer, 5) == 5 && memcmp(buffer, "given", 5) == 0);
  CHECK(vmsplice(ends[0], &(struct iovec){buffer, 10}, 1, 0) == 10 && memcmp(buffer, large, 10) == 0);
  // What was there before its place.
  if (S_ISREG(out.st_mode) && !appends) {
    loff_t from = 0, there = 2;
    CHECK(lseek(fd, 0, SEEK_SET) == 0 && write(fd, "BY COPY", 7) == 7);
    CHECK(copy_file_range(fd, &from, 1, &there, 7, 0) == 7 && there == 9);
    fill(ends[1], "PIPE");
    CHECK(read(ends[0], large, sizeof large) > 0);  // all of it
    fill(ends[1], "PIPE");
    there = 16;
    CHECK(splice(ends[0], NULL, 1, &there, 4, 0) == 4 && there == 20);
  }
  fill(1, "the end\n");
  return 0;
}
