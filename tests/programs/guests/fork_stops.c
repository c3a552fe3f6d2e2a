// A child is not to be recorded: what a program would do without it is not what it does natively, so it ends
// there.
// record: --children=refuse
// expect: exit 69
// expect-output: before
// says: a child process
#include "check.h"

int main(void) {
  printf("before\n");
  fflush(stdout);
  fork();
  printf("after\n");
  return 0;
}
