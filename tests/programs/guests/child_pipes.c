// Fifty children at once, each at the end of two pipes.
#include <sys/wait.h>

#include "check.h"

enum { kChildren = 50 };

int main(void) {
  int to[kChildren], from[kChildren];
  pid_t children[kChildren];
  for (int i = 0; i < kChildren; ++i) {
    int down[2], up[2];
    CHECK(pipe(down) == 0 && pipe(up) == 0);
    children[i] = fork();
    CHECK(children[i] >= 0);
    if (children[i] == 0) {
      close(down[1]);
      close(up[0]);
      for (int other = 0; other < i; ++other) close(to[other]), close(from[other]);
      long number = 0, answer = 0;
      while (read(down[0], &number, sizeof number) == sizeof number) {
        answer = number * number + i;
        CHECK(write(up[1], &answer, sizeof answer) == sizeof answer);
      }
      _exit(i);
    }
    close(down[0]);
    close(up[1]);
    to[i] = down[1];
    from[i] = up[0];
  }
  long sum = 0;
  for (long round = 0; round < 5; ++round)
    for (int i = 0; i < kChildren; ++i) {
      long answer = 0;
      CHECK(write(to[i], &round, sizeof round) == sizeof round);
      CHECK(read(from[i], &answer, sizeof answer) == sizeof answer);
      CHECK(answer == round * round + i);
      sum += answer;
    }
  for (int i = 0; i < kChildren; ++i) close(to[i]);
  for (int i = kChildren - 1; i >= 0; --i) {
    int status = 0;
    CHECK(waitpid(children[i], &status, 0) == children[i]);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == i);
  }
  printf("%ld by %d\n", sum, getpid());
  return 0;
}
