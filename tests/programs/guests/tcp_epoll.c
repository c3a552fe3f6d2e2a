// TCP over loopback in one process, driven by edge-triggered epoll.
#include <sys/epoll.h>

#include "tcp.h"

int main(void) {
  struct sockaddr_in address;
  const int listener = listen_on_loopback(&address), set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = 1};
  CHECK(epoll_ctl(set, EPOLL_CTL_ADD, listener, &event) == 0);
  const int client = connect_to(&address);
  event = (struct epoll_event){.events = EPOLLOUT | EPOLLIN | EPOLLET, .data.u64 = 2};
  CHECK(epoll_ctl(set, EPOLL_CTL_ADD, client, &event) == 0);
  CHECK_ERRNO(epoll_ctl(set, EPOLL_CTL_ADD, client, &event), EEXIST);
  int server = -1, echoed = 0, events_seen = 0;
  while (echoed < 50) {
    struct epoll_event events[4];
    const int n = epoll_wait(set, events, 4, 5000);
    CHECK(n > 0);
    for (int i = 0; i < n; ++i, ++events_seen) {
      char line[100];
      const unsigned long who = events[i].data.u64;
      if (who == 1) {
        server = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        event = (struct epoll_event){.events = EPOLLIN, .data.u64 = 3};
        CHECK(server >= 0 && epoll_ctl(set, EPOLL_CTL_ADD, server, &event) == 0);
        CHECK(send(client, "start", 5, 0) == 5);
      } else if ((events[i].events & EPOLLIN)) {
        const int fd = who == 2 ? client : server;
        const ssize_t size = recv(fd, line, sizeof line, 0);
        if (size > 0) CHECK(send(fd, line, (size_t)size, MSG_NOSIGNAL) == size);
        echoed += who == 2;
      }
    }
  }
  printf("%d events\n", events_seen);
  return 0;
}
