// Five hundred children at once, each of which has something to say, and is waited for.
// native: output
// expect-output: 500 children, 124750
// no-checkpoints: five hundred processes are replayed together often enough
// not-sanitized: five hundred shadows of memory
#include <sys/wait.h>

#include "check.h"

enum { kChildren = 500 };

int main(void) {
  int here[2], go[2];
  CHECK(pipe(here) == 0 && pipe(go) == 0);
  for (int i = 0; i < kChildren; ++i) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child > 0) continue;
    char byte;
    close(go[1]);
    CHECK(write(here[1], &i, sizeof i) == sizeof i);
    CHECK(read(go[0], &byte, 1) == 0);
    _exit(i % 100);
  }
  close(here[1]);
  int number, children = 0, sum = 0, statuses = 0;
  while (children < kChildren && read(here[0], &number, sizeof number) == sizeof number)
    ++children, sum += number;
  // All are there now.
  close(go[1]);
  for (int i = 0; i < kChildren; ++i) {
    int status = 0;
    CHECK(wait(&status) > 0 && WIFEXITED(status));
    statuses += WEXITSTATUS(status);
  }
  CHECK(statuses == kChildren / 100 * 4950);
  printf("%d children, %d\n", children, sum);
  return 0;
}
