// A signal without a handler, sent to one thread, ends the process; so does abort() in one.
// flags: -pthread
// expect: signal TERM
// native: output
#include "threads.h"

static atomic_int tid;
static void* stay(void* unused) {
  (void)unused;
  atomic_store(&tid, gettid());
  for (volatile unsigned n = 0;; ++n) continue;
  return NULL;
}

int main(void) {
  const pthread_t thread = started(stay, NULL);
  until_set(&tid);
  printf("now\n");
  fflush(stdout);
  CHECK_OK(pthread_kill(thread, SIGTERM));
  joined(thread);
  return 1;
}
