// abort() in a thread, while others wait and compute.
// flags: -pthread
// expect: signal ABRT
// native: output
#include "threads.h"

static atomic_int here;
static void handler(int signal) {
  (void)signal;
  CHECK(gettid() != getpid());
  CHECK(write(1, "handler\n", 8) == 8);
}
static void* stay(void* computes) {
  atomic_fetch_add(&here, 1);
  for (volatile unsigned n = 0;; ++n)
    if (!computes) pause();
  return NULL;
}
static void* give_up(void* unused) {
  (void)unused;
  while (atomic_load(&here) < 2) sched_yield();
  abort();
}

int main(void) {
  const struct sigaction action = {.sa_handler = handler};
  CHECK(sigaction(SIGABRT, &action, NULL) == 0);
  for (intptr_t i = 0; i < 2; ++i) started(stay, (void*)i);
  joined(started(give_up, NULL));
  return 1;
}
