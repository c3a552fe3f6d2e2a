// _exit loses what was not flushed; only the low eight bits of the status count.
// expect: exit 3
#include <stdio.h>
#include <unistd.h>

int main(void) {
  printf("flushed\n");
  fflush(stdout);
  printf("lost");
  _exit(0x7f03);
}
