// Out of handlers by siglongjmp, many times, with and without the mask.
#include <setjmp.h>
#include <signal.h>

#include "check.h"

static sigjmp_buf back;
static void handler(int signal) { siglongjmp(back, signal); }

int main(void) {
  signal(SIGSEGV, handler);
  signal(SIGFPE, handler);
  signal(SIGUSR1, handler);
  volatile int faults = 0, divisions = 0, raised = 0;
  for (volatile int i = 0; i < 100; ++i) {
    const int from = sigsetjmp(back, 1);
    if (from == SIGSEGV) ++faults;
    if (from == SIGFPE) ++divisions;
    if (from == SIGUSR1) ++raised;
    if (from) continue;
    if (i % 3 == 0) *(volatile int*)8 = i;
    if (i % 3 == 1) divisions += i / (*(volatile int*)&i - i);
    if (i % 3 == 2) raise(SIGUSR1);
  }
  printf("%d %d %d\n", faults, divisions, raised);
  CHECK(faults == 34 && divisions == 33 && raised == 33);
  return 0;
}
