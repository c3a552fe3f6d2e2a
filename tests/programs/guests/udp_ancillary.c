// Datagrams with sendmsg, recvmsg and recvmmsg; a descriptor handed over in ancillary data; a time stamp.
#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "check.h"

int main(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, from;
  socklen_t size = sizeof address;
  const int in = socket(AF_INET, SOCK_DGRAM, 0), out = socket(AF_INET, SOCK_DGRAM, 0), on = 1;
  CHECK(bind(in, (struct sockaddr*)&address, size) == 0);
  CHECK(getsockname(in, (struct sockaddr*)&address, &size) == 0);
  CHECK(setsockopt(in, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on) == 0);
  struct iovec parts[2] = {{(void*)"first ", 6}, {(void*)"second", 6}};
  struct msghdr message = {.msg_name = &address, .msg_namelen = size, .msg_iov = parts, .msg_iovlen = 2};
  CHECK(sendmsg(out, &message, 0) == 12);
  char a[3], b[20], control[200];
  struct iovec into[2] = {{a, 3}, {b, 20}};
  message = (struct msghdr){.msg_name = &from,
                            .msg_namelen = sizeof from,
                            .msg_iov = into,
                            .msg_iovlen = 2,
                            .msg_control = control,
                            .msg_controllen = sizeof control};
  CHECK(recvmsg(in, &message, 0) == 12 && memcmp(a, "fir", 3) == 0 && memcmp(b, "st second", 9) == 0);
  for (struct cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
    printf("control %d %d %ld\n", c->cmsg_level, c->cmsg_type, *(long*)CMSG_DATA(c));
  printf("from %d\n", ntohs(from.sin_port));
  for (int i = 0; i < 3; ++i) CHECK(sendto(out, &i, sizeof i, 0, (struct sockaddr*)&address, size) == 4);
  int values[4];
  struct iovec value_parts[4];
  struct mmsghdr many[4] = {0};
  for (int i = 0; i < 4; ++i) {
    value_parts[i] = (struct iovec){&values[i], 4};
    many[i].msg_hdr.msg_iov = &value_parts[i];
    many[i].msg_hdr.msg_iovlen = 1;
  }
  CHECK(recvmmsg(in, many, 4, MSG_DONTWAIT, NULL) == 3 && values[2] == 2 && many[2].msg_len == 4);

  int pair[2], files[2];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0 && pipe(files) == 0);
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
  } rights;
  message = (struct msghdr){
      .msg_iov = parts, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof rights};
  struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  *header =
      (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  memcpy(CMSG_DATA(header), &files[1], sizeof(int));
  CHECK(sendmsg(pair[0], &message, 0) == 6);
  close(files[1]);
  memset(&rights, 0, sizeof rights);
  message.msg_iov = into;
  CHECK(recvmsg(pair[1], &message, MSG_CMSG_CLOEXEC) == 3);
  int handed;
  memcpy(&handed, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof handed);
  CHECK(fcntl(handed, F_GETFD) == FD_CLOEXEC && write(handed, "through", 7) == 7 &&
        read(files[0], b, 20) == 7);
  return 0;
}
