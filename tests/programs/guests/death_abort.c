// abort, past a handler that returns.
// expect: signal ABRT
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static void handler(int signal) {
  (void)signal;
  if (write(1, "handler\n", 8) != 8) _exit(1);
}

int main(void) {
  signal(SIGABRT, handler);
  abort();
}
