// Checks that print, one within another, while the program has text that is not written yet, and while it has
// none.
#include <stdio.h>

#include "vassert.h"

static int say(const char* text) { return printf("%s\n", text) > 0; }

__attribute__((noinline)) static int inner(int i) {
  VASSERT(say("inner"));
  return i ^ 1;
}

__attribute__((noinline)) static int outer(int i) {
  VASSERT(inner(i) == (i ^ 1) && say("after"));
  return i ^ 1;
}

int main(void) {
  int sum = inner(1) + outer(2);
  printf("not yet written; ");
  sum += inner(3) + outer(4);
  printf("%d\n", sum);
  fflush(stdout);
  sum += inner(5);
  return sum == 0;
}
