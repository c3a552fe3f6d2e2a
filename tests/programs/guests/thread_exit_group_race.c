// Several threads end the process at once: one status wins.
// flags: -pthread
// expect: exit 5
// native: output
#include "threads.h"

static pthread_barrier_t barrier;
static void* leave(void* unused) {
  (void)unused;
  pthread_barrier_wait(&barrier);
  _exit(5);
}

int main(void) {
  printf("at once\n");
  fflush(stdout);
  CHECK_OK(pthread_barrier_init(&barrier, NULL, 6));
  for (int i = 0; i < 5; ++i) started(leave, NULL);
  leave(NULL);
}
