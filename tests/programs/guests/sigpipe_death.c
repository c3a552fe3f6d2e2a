// Death by writing to a pipe that nobody reads.
// expect: signal PIPE
#include "check.h"

int main(void) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  close(ends[0]);
  return (int)write(ends[1], "x", 1);
}
