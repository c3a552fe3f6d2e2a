// Death by its own SIGTERM, with output that was not flushed lost.
// expect: signal TERM
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int main(void) {
  if (write(1, "written\n", 8) != 8) return 1;
  printf("not flushed");
  raise(SIGTERM);
  return 1;
}
