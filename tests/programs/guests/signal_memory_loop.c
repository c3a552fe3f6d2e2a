// A signal lands in loops whose state is one word of memory: on the stack, in zeroed data, behind pointers.
#include "signal_loops.h"

enum { after = 3000 };  // microseconds

int main(void) {
  CHECK(signal(SIGALRM, handler) != SIG_ERR);
  struct node* nodes = make_nodes();
  start(after);
  printf("stack %lu\n", on_stack());
  start(after);
  printf("data %lu\n", in_zeroed());
  start(after);
  printf("pointers %lu\n", behind_pointers(nodes));
  return 0;
}
