// TCP over loopback in one process, driven by poll.
#include <poll.h>

#include "tcp.h"

int main(void) {
  struct sockaddr_in address, peer;
  const int listener = listen_on_loopback(&address), client = connect_to(&address);
  struct pollfd set[3] = {{listener, POLLIN, 0}, {client, POLLOUT, 0}, {-1, POLLIN, 0}};
  unsigned sent = 0, received = 0, rounds = 0;
  char buffer[5000];
  memset(buffer, 'x', sizeof buffer);
  while (received < 300000) {
    CHECK(++rounds < 100000 && poll(set, 3, 5000) > 0);
    if (set[0].revents & POLLIN) {
      socklen_t size = sizeof peer;
      set[2].fd = accept4(listener, (struct sockaddr*)&peer, &size, SOCK_NONBLOCK);
      CHECK(set[2].fd >= 0 && size == sizeof peer);
    }
    if (set[1].revents & POLLOUT) {
      const ssize_t n = send(client, buffer, sizeof buffer, 0);
      CHECK(n > 0 || errno == EAGAIN);
      if (n > 0) sent += (unsigned)n;
      if (sent >= 300000) set[1].events = 0;
    }
    if (set[2].revents & POLLIN) {
      const ssize_t n = recv(set[2].fd, buffer, sizeof buffer, 0);
      CHECK(n > 0);
      received += (unsigned)n;
    }
  }
  CHECK(sent == received);
  shutdown(client, SHUT_WR);
  CHECK(poll(set + 2, 1, 5000) == 1 && recv(set[2].fd, buffer, 1, 0) == 0);
  printf("from port %d, %u bytes in %u rounds\n", ntohs(peer.sin_port), received, rounds);
  return 0;
}
