// A full table of descriptors is EMFILE for calls that make two or more, too, and none beyond the limit is
// left open.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "check.h"

static long send_two(int socket_fd, int fd) {
  union {
    char bytes[CMSG_SPACE(2 * sizeof(int))];
    struct cmsghdr align;
  } control = {0};
  char byte = 'x';
  struct iovec piece = {&byte, 1};
  struct msghdr message = {
      .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET, part->cmsg_type = SCM_RIGHTS, part->cmsg_len = CMSG_LEN(2 * sizeof(int));
  const int fds[2] = {fd, fd};
  memcpy(CMSG_DATA(part), fds, sizeof fds);
  return sendmsg(socket_fd, &message, 0);
}

// How many descriptors came, and whether some did not.
static int receive(int socket_fd, int* cut) {
  union {
    char bytes[CMSG_SPACE(2 * sizeof(int))];
    struct cmsghdr align;
  } control = {0};
  char byte = 0;
  struct iovec piece = {&byte, 1};
  struct msghdr message = {
      .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  CHECK(recvmsg(socket_fd, &message, 0) == 1 && byte == 'x');
  *cut = (message.msg_flags & MSG_CTRUNC) != 0;
  const struct cmsghdr* part = CMSG_FIRSTHDR(&message);
  int count = 0, fds[2] = {-1, -1};
  if (part && part->cmsg_type == SCM_RIGHTS) {
    count = (int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(part), (size_t)count * sizeof(int));
  }
  for (int i = 0; i < count; ++i) close(fds[i]);
  return count;
}

int main(void) {
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  int sockets[2], pair[2] = {-7, -7}, cut;
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
  int last = -1;
  for (int fd; (fd = dup(0)) >= 0;) last = fd;
  CHECK(errno == EMFILE && last == (int)limit.rlim_cur - 1);
  CHECK_ERRNO(pipe(pair), EMFILE);
  CHECK_ERRNO(pipe2(pair, O_CLOEXEC), EMFILE);
  CHECK_ERRNO(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), EMFILE);
  CHECK_ERRNO(open("/dev/null", O_RDONLY), EMFILE);
  CHECK(send_two(sockets[0], 0) == 1 && receive(sockets[1], &cut) == 0 && cut);
  CHECK(close(last) == 0);
  CHECK_ERRNO(pipe(pair), EMFILE);
  CHECK_ERRNO(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), EMFILE);
  CHECK(pair[0] == -7 && pair[1] == -7);
  CHECK(send_two(sockets[0], 0) == 1 && receive(sockets[1], &cut) == 1 && cut);
  CHECK(close(last - 1) == 0);
  CHECK(send_two(sockets[0], 0) == 1 && receive(sockets[1], &cut) == 2 && !cut);
  CHECK(pipe(pair) == 0 && pair[0] + pair[1] == 2 * last - 1);
  char path[100];
  for (int fd = (int)limit.rlim_cur; fd < (int)limit.rlim_cur + 64; ++fd) {
    CHECK_ERRNO(fcntl(fd, F_GETFD), EBADF);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK_ERRNO(access(path, F_OK), ENOENT);
  }
  printf("%d descriptors\n", last + 1);
  return 0;
}
