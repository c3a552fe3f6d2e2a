// TCP over loopback in one process, driven by select and pselect; what remains of the timeout is shown too.
#include <sys/select.h>

#include "tcp.h"

int main(void) {
  struct sockaddr_in address;
  const int listener = listen_on_loopback(&address);
  fd_set readable, writable;
  FD_ZERO(&readable);
  FD_SET(listener, &readable);
  struct timeval wait = {0, 20000};
  CHECK(select(listener + 1, &readable, NULL, NULL, &wait) == 0 && !FD_ISSET(listener, &readable));
  const int client = connect_to(&address);
  FD_SET(listener, &readable);
  wait.tv_sec = 5;
  CHECK(select(listener + 1, &readable, NULL, NULL, &wait) == 1);
  printf("%ld.%06ld remain\n", wait.tv_sec, wait.tv_usec);
  const int server = accept(listener, NULL, NULL);
  CHECK(server >= 0);
  for (int i = 0; i < 20; ++i) {
    FD_ZERO(&readable);
    FD_ZERO(&writable);
    FD_SET(server, &readable);
    FD_SET(client, &writable);
    struct timespec limit = {5, 0};
    const int n = pselect(server + client, &readable, &writable, NULL, &limit, NULL);
    CHECK(n > 0 && FD_ISSET(client, &writable));
    CHECK(send(client, &i, sizeof i, 0) == sizeof i);
    int got;
    CHECK(recv(server, &got, sizeof got, MSG_WAITALL) == sizeof got && got == i);
  }
  struct tcp_info info;
  socklen_t size = sizeof info;
  CHECK(getsockopt(client, IPPROTO_TCP, TCP_INFO, &info, &size) == 0);
  printf("rtt %u us, %u retransmits\n", info.tcpi_rtt, info.tcpi_total_retrans);
  return 0;
}
