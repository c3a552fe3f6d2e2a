// An interval timer ticks while the program makes system calls and computes.
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "check.h"

static volatile unsigned ticks, turns, at[5];
static void handler(int signal) {
  (void)signal;
  if (ticks < 5) at[ticks] = turns;
  ++ticks;
}

int main(void) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &action, NULL);
  const struct itimerval every = {{0, 3000}, {0, 3000}};
  CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
  unsigned state = 1;
  while (ticks < 5) {
    ++turns;
    for (int i = 0; i < 100; ++i) state = state * 1664525 + 1013904223 + ticks;
    syscall(SYS_getppid);
  }
  printf("%u turns, state %u, ticks at", turns, state);
  for (int i = 0; i < 5; ++i) printf(" %u", at[i]);
  putchar('\n');
  return 0;
}
