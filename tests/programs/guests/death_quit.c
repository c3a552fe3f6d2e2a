// Death by its own SIGQUIT, with output that was not flushed lost.
// expect: signal QUIT
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int main(void) {
  if (write(1, "written\n", 8) != 8) return 1;
  printf("not flushed");
  raise(SIGQUIT);
  return 1;
}
