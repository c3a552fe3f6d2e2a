// eventfd, timerfd, inotify, signalfd, memfd, epoll over them.
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#include "check.h"

int main(void) {
  uint64_t value = 3;
  const int event = eventfd(0, EFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, 0);
  CHECK_ERRNO(read(event, &value, 8), EAGAIN);
  CHECK(write(event, &value, 8) == 8 && write(event, &value, 8) == 8 && read(event, &value, 8) == 8 &&
        value == 6);
  const struct itimerspec every = {{0, 1000000}, {0, 1000000}};
  struct itimerspec left;
  CHECK(timerfd_settime(timer, 0, &every, NULL) == 0 && timerfd_gettime(timer, &left) == 0);
  uint64_t ticks = 0, rounds = 0;
  while (ticks < 10) {
    CHECK(read(timer, &value, 8) == 8 && value > 0);
    ticks += value, ++rounds;
  }
  printf("%lu ticks in %lu rounds, next in %ld\n", ticks, rounds, left.it_value.tv_nsec);
  const int watch = inotify_init1(IN_NONBLOCK);
  CHECK(inotify_add_watch(watch, ".", IN_CREATE | IN_DELETE) == 1);
  CHECK(close(open("watched", O_CREAT | O_WRONLY, 0600)) == 0 && unlink("watched") == 0);
  char buffer[1000] __attribute__((aligned(8)));
  CHECK(read(watch, buffer, sizeof buffer) == 64);
  const struct inotify_event* seen = (void*)buffer;
  CHECK(seen->mask == IN_CREATE && strcmp(seen->name, "watched") == 0);
  const int memory = memfd_create("m", 0);
  CHECK(ftruncate(memory, 1000) == 0 && pwrite(memory, "abc", 3, 500) == 3 &&
        pread(memory, buffer, 3, 500) == 3);
  const int set = epoll_create1(0);
  struct epoll_event wanted = {.events = EPOLLIN, .data.fd = event};
  CHECK(epoll_ctl(set, EPOLL_CTL_ADD, event, &wanted) == 0 && epoll_wait(set, &wanted, 1, 0) == 0);
  CHECK(eventfd_write(event, 1) == 0 && epoll_wait(set, &wanted, 1, 1000) == 1 && wanted.data.fd == event);
  return 0;
}
