// Three workers that count in memory which they share. Checks write there, too, which nobody may see.
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vassert.h"

enum { workers = 3, steps = 40 };

VASSERT_GHOST static int seen;
static int* counter;

static __attribute__((noinline)) void step(int worker) {
  const int now = __atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
  VASSERT_MSG(now % 25 != 0, "count %d", now);
  VASSERT_BLOCK {
    ++seen;
    counter[0] = 1000 * now;
    counter[1] = worker;
    VASSERT_LOG("%d of mine", seen);
  }
  if (now % 3 == 0) usleep(500);
}

int main(void) {
  counter = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  for (int worker = 1; worker <= workers; ++worker) {
    if (fork() != 0) continue;
    for (int i = 0; i < steps; ++i) step(worker);
    _exit(0);
  }
  int status = 0, all = 0;
  while (wait(&status) > 0) all |= status;
  printf("%d %d\n", counter[0], counter[1]);
  return all != 0;
}
