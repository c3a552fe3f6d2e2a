// EPIPE where SIGPIPE is ignored or handled, and where MSG_NOSIGNAL forbids it.
#include <signal.h>
#include <sys/socket.h>

#include "check.h"

static volatile int seen;
static void handler(int signal) { seen += signal; }

int main(void) {
  int ends[2], pair[2];
  CHECK(pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  close(ends[0]);
  close(pair[0]);
  CHECK_ERRNO(send(pair[1], "x", 1, MSG_NOSIGNAL), EPIPE);
  signal(SIGPIPE, SIG_IGN);
  CHECK_ERRNO(write(ends[1], "x", 1), EPIPE);
  signal(SIGPIPE, handler);
  CHECK_ERRNO(write(ends[1], "x", 1), EPIPE);
  CHECK_ERRNO(write(pair[1], "x", 1), EPIPE);
  CHECK(seen == 2 * SIGPIPE);
  return 0;
}
