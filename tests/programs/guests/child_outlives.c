// A child that goes on until its parent is gone, which the end of a pipe tells it: only the parent has its
// other end.
// expect-output: the parent is gone
#include "check.h"

int main(void) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child != 0) return 0;
  char byte = 0;
  CHECK(close(ends[1]) == 0);
  CHECK(read(ends[0], &byte, 1) == 0);
  printf("the parent is gone\n");
  return 0;
}
