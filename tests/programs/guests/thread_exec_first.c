// execve by the first thread while others wait, compute and make system calls.
// flags: -pthread
// native: output
#include "threads.h"

static atomic_int here;
static void* stay(void* argument) {
  const intptr_t kind = (intptr_t)argument;
  atomic_fetch_add(&here, 1);
  for (volatile unsigned n = 0;; ++n) {
    if (kind == 0) pause();
    if (kind == 1) getppid();
  }
  return NULL;
}

int main(int argc, char** argv) {
  if (argc == 1) {
    for (intptr_t i = 0; i < 3; ++i) started(stay, (void*)i);
    while (atomic_load(&here) < 3) sched_yield();
    char* arguments[] = {"again", "1", NULL};
    execv("/proc/self/exe", arguments);
    return 1;
  }
  CHECK(getpid() == gettid());
  printf("%s\n", argv[0]);
  return 0;
}
