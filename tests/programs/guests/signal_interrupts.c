// Alarms into blocking calls: read, pause, nanosleep, poll, with and without SA_RESTART.
#include <poll.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>

#include "check.h"

static volatile int ticks;
static int pipe_ends[2];
static void handler(int signal) {
  (void)signal;
  if (++ticks == 5) CHECK(write(pipe_ends[1], "x", 1) == 1);
}
static void in_20_ms(void) {
  const struct itimerval once = {.it_value = {0, 20000}};
  CHECK(setitimer(ITIMER_REAL, &once, NULL) == 0);
}

int main(void) {
  CHECK(pipe(pipe_ends) == 0);
  char byte;
  struct sigaction action = {.sa_handler = handler};
  sigaction(SIGALRM, &action, NULL);
  in_20_ms();
  CHECK_ERRNO(read(pipe_ends[0], &byte, 1), EINTR);
  in_20_ms();
  CHECK_ERRNO(pause(), EINTR);
  in_20_ms();
  struct timespec long_time = {5, 0}, left = {0, 0};
  CHECK_ERRNO(nanosleep(&long_time, &left), EINTR);
  CHECK(left.tv_sec == 4);
  printf("left %ld.%09ld\n", left.tv_sec, left.tv_nsec);
  in_20_ms();
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, NULL);
  struct pollfd set = {pipe_ends[0], POLLIN, 0};
  CHECK_ERRNO(poll(&set, 1, 5000), EINTR);
  CHECK(ticks == 4);
  in_20_ms();
  CHECK(read(pipe_ends[0], &byte, 1) == 1 && ticks == 5);
  in_20_ms();
  CHECK_ERRNO(nanosleep(&long_time, &left), EINTR);
  CHECK(alarm(100) == 0 && alarm(0) == 100);
  return 0;
}
