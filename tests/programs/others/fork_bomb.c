// Every process forks until it can't any more: 64 processes at most, and fewer where a limit says so. None
// ends before that; then all do, and the first one has waited for its own.
#include <fcntl.h>
#include <sys/wait.h>

#include "../guests/check.h"

enum { kMost = 64 };

int main(void) {
  int tokens[2], told[2], hold[2];
  char token, bytes[2 * kMost];
  CHECK(pipe(tokens) == 0 && pipe(told) == 0 && pipe(hold) == 0);
  CHECK(write(tokens[1], bytes, kMost) == kMost);
  CHECK(fcntl(tokens[0], F_SETFL, O_NONBLOCK) == 0);
  int first = 1, children = 0, refused = 0;
  // Nobody forks without a token, and nobody gives one back.
  while (!refused && read(tokens[0], &token, 1) == 1) {
    const pid_t child = fork();
    if (child < 0) CHECK(errno == EAGAIN);
    CHECK(write(told[1], child > 0 ? "m" : child < 0 ? "r" : "s", 1) == 1);
    refused = child < 0;
    children = child == 0 ? 0 : children + (child > 0);
    if (child == 0) first = 0, close(hold[1]);
  }
  if (first) {
    // What each one has to say has come when nobody has said anything for long.
    CHECK(fcntl(told[0], F_SETFL, O_NONBLOCK) == 0);
    int made = 0, failed = 0, silent = 0;
    while (silent < 100) {
      const ssize_t count = read(told[0], bytes, sizeof bytes);
      for (ssize_t i = 0; i < count; ++i) made += bytes[i] == 'm', failed += bytes[i] == 'r';
      silent = count > 0 ? 0 : silent + 1;
      usleep(2000);
    }
    printf("%d made, %d refused\n", made, failed);
    close(hold[1]);
  } else {
    read(hold[0], &token, 1);
  }
  while (children-- > 0) CHECK(wait(NULL) > 0);
  return 0;
}
