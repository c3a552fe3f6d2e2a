// Death by its own SIGUSR1, with output that was not flushed lost.
// expect: signal USR1
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int main(void) {
  if (write(1, "written\n", 8) != 8) return 1;
  printf("not flushed");
  raise(SIGUSR1);
  return 1;
}
