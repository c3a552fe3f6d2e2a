// Work that goes from thread to thread through eventfd, timerfd, socketpair and pipe, waited for in epoll and
// poll; descriptors added and closed by others meanwhile.
// flags: -pthread
// native: output
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "threads.h"

enum { kRounds = 40 };
static int epoll, counter, sockets[2], pipes[2], timer;
static atomic_int seen[4];

static void* serve(void* unused) {
  (void)unused;
  for (;;) {
    struct epoll_event events[2];
    const int count = epoll_wait(epoll, events, 2, -1);
    CHECK(count >= 1);
    for (int i = 0; i < count; ++i) {
      uint64_t number = 0;
      char text[16];
      ssize_t n;
      switch (events[i].data.u32) {
        case 0:
          // Another thread may have been faster.
          n = read(counter, &number, sizeof number);
          CHECK(n == sizeof number || (n == -1 && errno == EAGAIN));
          atomic_fetch_add(&seen[0], (int)number);
          break;
        case 1:
          n = recv(sockets[1], text, sizeof text, MSG_DONTWAIT);
          CHECK(n == 4 || (n == -1 && errno == EAGAIN));
          if (n == 4) CHECK(memcmp(text, "work", 4) == 0 && send(sockets[1], "done", 4, 0) == 4);
          atomic_fetch_add(&seen[1], n == 4);
          break;
        case 2:
          n = read(timer, &number, sizeof number);
          // Or it is closed by now, after this thread was told.
          CHECK(n == sizeof number || (n == -1 && (errno == EAGAIN || errno == EBADF)));
          atomic_fetch_add(&seen[2], (int)number);
          break;
        default:
          return NULL;  // the pipe: all are to end
      }
    }
  }
}
static void add(int fd, uint32_t number) {
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
  CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

int main(void) {
  epoll = epoll_create1(0);
  counter = eventfd(0, EFD_NONBLOCK);
  timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  CHECK(epoll >= 0 && counter >= 0 && timer >= 0 && pipe(pipes) == 0);
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets) == 0);
  const pthread_t threads[] = {started(serve, NULL), started(serve, NULL)};
  add(counter, 0), add(sockets[1], 1), add(timer, 2), add(pipes[0], 3);  // while they wait
  for (int i = 0; i < kRounds; ++i) {
    const uint64_t number = (uint64_t)i;
    CHECK(write(counter, &number, sizeof number) == sizeof number);
    CHECK(send(sockets[0], "work", 4, 0) == 4);
    struct pollfd wanted = {.fd = sockets[0], .events = POLLIN};
    CHECK(poll(&wanted, 1, -1) == 1 && wanted.revents == POLLIN);
    char text[16];
    CHECK(recv(sockets[0], text, sizeof text, 0) == 4 && memcmp(text, "done", 4) == 0);
  }
  while (atomic_load(&seen[0]) != kRounds * (kRounds - 1) / 2) sched_yield();
  const struct itimerspec every = {{0, 1000000}, {0, 1000000}}, never = {{0, 0}, {0, 0}};
  CHECK(timerfd_settime(timer, 0, &every, NULL) == 0);
  while (atomic_load(&seen[2]) < 5) nap(1);
  CHECK(timerfd_settime(timer, 0, &never, NULL) == 0);
  CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, timer, NULL) == 0 && close(timer) == 0);
  CHECK(close(pipes[1]) == 0);
  joined(threads[0]), joined(threads[1]);
  printf("%d %d\n", atomic_load(&seen[0]), atomic_load(&seen[1]));
  return 0;
}
