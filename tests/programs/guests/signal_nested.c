// Handlers inside handlers, masks while they run, SA_NODEFER, SA_RESETHAND; floating point survives.
#include <signal.h>

#include "check.h"

static volatile int depth, deepest;
static volatile double product = 1;
static void handler(int signal) {
  if (++depth > deepest) deepest = depth;
  const double before = product * 1.5;
  if (signal == SIGUSR1) raise(SIGUSR2);
  if (signal == SIGRTMIN && depth < 10) raise(SIGRTMIN);
  product = before;
  --depth;
}

int main(void) {
  struct sigaction action = {.sa_handler = handler};
  sigaction(SIGUSR1, &action, NULL);
  sigaction(SIGUSR2, &action, NULL);
  raise(SIGUSR1);
  CHECK(deepest == 2 && depth == 0);
  sigaddset(&action.sa_mask, SIGUSR2);
  sigaction(SIGUSR1, &action, NULL);
  deepest = 0;
  raise(SIGUSR1);
  CHECK(deepest == 1 && depth == 0);
  action.sa_flags = SA_NODEFER;
  sigaction(SIGRTMIN, &action, NULL);
  raise(SIGRTMIN);
  CHECK(deepest == 10 && depth == 0);
  action.sa_flags = SA_RESETHAND;
  sigaction(SIGUSR1, &action, NULL);
  raise(SIGUSR1);
  sigaction(SIGUSR1, NULL, &action);
  CHECK(action.sa_handler == SIG_DFL);
  long double x = 1;
  for (int i = 0; i < 20; ++i) {
    x = x * 1.1L + 0.25L;
    raise(SIGRTMIN);
  }
  printf("%.20Lg %g\n", x, product);
  return 0;
}
