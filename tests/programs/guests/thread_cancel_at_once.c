// Cancellation at any instruction: of threads that compute, of one that waits.
// flags: -pthread
// native: output
#include "threads.h"

static atomic_int ready, cleaned;
static void clean(void* unused) {
  (void)unused;
  atomic_fetch_add(&cleaned, 1);
}
static void* compute(void* waits) {
  CHECK_OK(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL));
  pthread_cleanup_push(clean, NULL);
  atomic_store(&ready, gettid());
  if (waits) pause();
  for (volatile unsigned n = 0;; ++n) continue;
  pthread_cleanup_pop(0);
  return NULL;
}

int main(void) {
  for (intptr_t i = 0; i < 4; ++i) {
    atomic_store(&ready, 0);
    const pthread_t thread = started(compute, (void*)(i % 2));
    until_set(&ready);
    CHECK_OK(pthread_cancel(thread));
    CHECK(joined(thread) == PTHREAD_CANCELED);
  }
  printf("%d\n", atomic_load(&cleaned));
  return 0;
}
