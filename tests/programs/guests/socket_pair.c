// Unix sockets: stream and packets, options, shutdown, peeking.
#include <sys/socket.h>
#include <sys/un.h>

#include "check.h"

int main(void) {
  int s[2];
  char buffer[100] = {0};
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
  CHECK(send(s[0], "abcdef", 6, 0) == 6);
  CHECK(recv(s[1], buffer, 3, MSG_PEEK) == 3 && memcmp(buffer, "abc", 3) == 0);
  CHECK(recv(s[1], buffer, 100, 0) == 6 && memcmp(buffer, "abcdef", 6) == 0);
  CHECK_ERRNO(recv(s[1], buffer, 100, MSG_DONTWAIT), EAGAIN);
  struct ucred peer;
  socklen_t size = sizeof peer;
  CHECK(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && size == sizeof peer);
  CHECK(peer.pid == getpid());
  CHECK(shutdown(s[0], SHUT_WR) == 0 && read(s[1], buffer, 1) == 0);
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s) == 0);
  CHECK(send(s[0], "0123456789", 10, 0) == 10 && send(s[0], "x", 1, 0) == 1);
  struct iovec part = {buffer, 4};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  CHECK(recvmsg(s[1], &message, 0) == 4 && (message.msg_flags & MSG_TRUNC));
  CHECK(recv(s[1], buffer, 100, 0) == 1 && buffer[0] == 'x');
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "name"}, got;
  const int listener = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK(bind(listener, (struct sockaddr*)&address, sizeof address) == 0 && listen(listener, 5) == 0);
  CHECK(connect(client, (struct sockaddr*)&address, sizeof address) == 0);
  size = sizeof got;
  const int server = accept4(listener, (struct sockaddr*)&got, &size, SOCK_CLOEXEC);
  CHECK(server >= 0 && size == 2);
  size = sizeof got;
  CHECK(getpeername(client, (struct sockaddr*)&got, &size) == 0 && strcmp(got.sun_path, "name") == 0);
  printf("peer %d %u %u\n", peer.pid, peer.uid, size);
  return 0;
}
