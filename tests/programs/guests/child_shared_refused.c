// Memory that parent and child would share can't be recorded where the child is not: the program ends there.
// record: --children=native
// expect: exit 69
// expect-output: before
// says: would share memory
#include <sys/mman.h>

#include "check.h"

int main(void) {
  printf("before\n");
  fflush(stdout);
  CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
  fork();
  printf("after\n");
  return 0;
}
