// Standard output that went through a socket, a pidfd and duplicates: what is written there is output too.
// expect-output: passed
// expect-output: after close
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "check.h"

static void say(int fd, const char* text) { CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text)); }

static void pass(int socket, int fd) {
  char byte = 0, control[CMSG_SPACE(sizeof fd)] = {0};
  struct iovec piece = {&byte, 1};
  struct msghdr message = {
      .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(part), &fd, sizeof fd);
  CHECK(sendmsg(socket, &message, 0) == 1);
}

static int received(int socket) {
  char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
  struct iovec piece = {&byte, 1};
  struct msghdr message = {
      .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  int fd = -1;
  CHECK(recvmsg(socket, &message, 0) == 1);
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  return fd;
}

int main(void) {
  int sockets[2];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets) == 0);
  say(1, "direct\n");
  pass(sockets[0], 1);
  const int fd = received(sockets[1]);
  say(fd, "passed\n");
  CHECK(dup2(fd, 40) == 40);
  say(40, "duplicate\n");
  const int high = fcntl(40, F_DUPFD_CLOEXEC, 60);
  say(high, "duplicate of it\n");
  const int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
  CHECK(self >= 0);
  const int got = (int)syscall(SYS_pidfd_getfd, self, 1, 0);
  if (got >= 0) say(got, "by pidfd_getfd\n");
  if (got < 0) CHECK(errno == EPERM || errno == ENOSYS);  // containers may forbid it
  CHECK_ERRNO(syscall(SYS_pidfd_getfd, self, 1000, 0), EBADF);
  CHECK_ERRNO(syscall(SYS_pidfd_getfd, 1, 1, 0), EBADF);
  // With no descriptor of it left, but one in a message.
  pass(sockets[0], fd);
  for (int i = 1; i < 70; i++)
    if (i != sockets[0] && i != sockets[1] && i != 2) close(i);
  const int last = received(sockets[1]);
  say(last, "after close\n");
  // A number that led there before.
  const int other = open("other", O_RDWR | O_CREAT, 0600);
  CHECK(other >= 0 && dup2(other, last) == last);
  say(last, "to a file\n");
  return 0;
}
