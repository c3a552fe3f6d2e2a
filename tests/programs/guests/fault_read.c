// expect: signal SEGV
#include <stdio.h>

int main(void) {
  printf("before\n");
  fflush(stdout);
  return *(volatile int*)16;
}
