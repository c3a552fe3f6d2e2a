// A signal lands in loops whose state is in one place only: a word of the stack, a global, one behind
// pointers, a register, an SSE register, the x87. The count at which it came is what a replay must get right.
// not-sanitized: it looks at each of millions of arrivals, which takes minutes
#include "signal_loops.h"

enum { after = 200 };  // microseconds

static volatile unsigned long global = 1;

static unsigned long in_global(void) {
  while (!came) global++;
  return global;
}

static unsigned long in_register(void) {
  unsigned long count = 0;
  while (!came) {
    count++;
    __asm__ volatile("" : "+r"(count));
  }
  return count;
}

static unsigned long in_sse(void) {
  double count = 0;
  while (!came) {
    count += 1;
    __asm__ volatile("" : "+x"(count));
  }
  return (unsigned long)count;
}

static unsigned long in_x87(void) {
  long double count = 0;
  while (!came) {
    count += 1;
    __asm__ volatile("" : "+t"(count));
  }
  return (unsigned long)count;
}

int main(void) {
  CHECK(signal(SIGALRM, handler) != SIG_ERR);
  struct node* nodes = make_nodes();
  start(after);
  printf("stack %lu\n", on_stack());
  start(after);
  printf("global %lu\n", in_global());
  start(after);
  printf("zeroed %lu\n", in_zeroed());
  start(after);
  printf("pointers %lu\n", behind_pointers(nodes));
  start(after);
  printf("register %lu\n", in_register());
  start(after);
  printf("sse %lu\n", in_sse());
  start(after);
  printf("x87 %lu\n", in_x87());
  return 0;
}
