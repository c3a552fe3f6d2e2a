// timer_create: signals with values, overruns, absolute times; clock_nanosleep to an absolute time.
#include <signal.h>
#include <time.h>

#include "check.h"

static volatile int ticks, last_value, overruns;
static timer_t timer;
static void handler(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  CHECK(info->si_code == SI_TIMER);
  ++ticks;
  last_value = info->si_value.sival_int;
  overruns += timer_getoverrun(timer);
}

int main(void) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  sigaction(SIGRTMIN + 1, &action, NULL);
  struct sigevent event = {
      .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1, .sigev_value.sival_int = 99};
  CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
  const struct itimerspec every = {{0, 2000000}, {0, 2000000}};
  struct itimerspec left;
  CHECK(timer_settime(timer, 0, &every, NULL) == 0 && timer_gettime(timer, &left) == 0);
  struct timespec pause = {0, 5000000};
  while (ticks < 5) nanosleep(&pause, NULL);
  CHECK(last_value == 99 && left.it_interval.tv_nsec == 2000000);
  printf("%d ticks, %d overruns, %ld\n", ticks, overruns, left.it_value.tv_nsec);
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += 0, until.tv_nsec += until.tv_nsec < 990000000 ? 5000000 : 0;
  while (clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, NULL) == EINTR) continue;
  return 0;  // with the timer still running
}
