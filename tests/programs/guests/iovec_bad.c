// Vectors of buffers with bad elements, too many of them, and lengths that overflow.
#include <fcntl.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "check.h"

int main(void) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  char a[10] = "aaaaaaaaa", b[10];
  struct iovec parts[3] = {{a, 5}, {(void*)16, 5}, {b, 5}};
  const int file = open("file", O_RDWR | O_CREAT, 0600);
  CHECK(writev(file, parts, 3) == 5);
  const int zero = open("/dev/zero", O_RDONLY);
  parts[0].iov_base = b;
  const ssize_t got = readv(zero, parts, 3);
  CHECK(got == 5 && b[4] == 0);
  parts[0].iov_base = (void*)16;
  CHECK_ERRNO(writev(ends[1], parts, 3), EFAULT);
  CHECK_ERRNO(syscall(SYS_writev, ends[1], 16, 1), EFAULT);
  parts[0] = (struct iovec){a, (size_t)-1};
  CHECK_ERRNO(writev(ends[1], parts, 1), EINVAL);
  CHECK_ERRNO(syscall(SYS_writev, ends[1], parts, 1025), EINVAL);
  CHECK(writev(ends[1], parts, 0) == 0);
  parts[0] = (struct iovec){NULL, 0};
  parts[1] = (struct iovec){a, 3};
  CHECK(writev(ends[1], parts, 2) == 3 && read(ends[0], b, 10) == 3);
  struct msghdr message = {.msg_iov = (void*)16, .msg_iovlen = 1};
  int pair[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  CHECK_ERRNO(sendmsg(pair[0], &message, 0), EFAULT);
  CHECK_ERRNO(sendmsg(pair[0], (void*)16, 0), EFAULT);
  CHECK_ERRNO(recvmsg(pair[0], (void*)16, MSG_DONTWAIT), EFAULT);
  return 0;
}
