// Futex waiters that are moved to another word, with and without comparison, within a process and shared.
// flags: -pthread
// native: output
#include "threads.h"

enum { kWaiters = 5 };
static atomic_uint from, to;
static int private_flag;
static atomic_int woken;

static void* wait_for_it(void* unused) {
  (void)unused;
  CHECK(futex(&from, FUTEX_WAIT | private_flag, 3, NULL, NULL, 0) == 0);
  atomic_fetch_add(&woken, 1);
  return NULL;
}
static void all(int operation) {
  pthread_t threads[kWaiters];
  atomic_store(&from, 3), atomic_store(&woken, 0);
  for (int i = 0; i < kWaiters; ++i) threads[i] = started(wait_for_it, NULL);
  CHECK_ERRNO(futex(&from, FUTEX_CMP_REQUEUE | private_flag, 1, (void*)1, &to, 4), EAGAIN);
  for (int moved = 0; moved < kWaiters;) {
    const long result = futex(&from, operation | private_flag, 0, (void*)(long)INT_MAX, &to, 3);
    CHECK(result >= 0 && result <= kWaiters - moved);
    moved += (int)result;
    sched_yield();
  }
  CHECK(futex(&from, FUTEX_WAKE | private_flag, INT_MAX, NULL, NULL, 0) == 0 && atomic_load(&woken) == 0);
  // Back, two at most, of which none is woken; then one is woken and one goes on to the first word.
  CHECK(futex(&to, FUTEX_CMP_REQUEUE | private_flag, 0, (void*)2, &from, 0) == 2);
  CHECK(futex(&to, FUTEX_REQUEUE | private_flag, 1, (void*)1, &from, 0) == 2);
  CHECK(futex(&to, FUTEX_WAKE | private_flag, INT_MAX, NULL, NULL, 0) == 1);
  CHECK(futex(&from, FUTEX_WAKE | private_flag, INT_MAX, NULL, NULL, 0) == 3);
  for (int i = 0; i < kWaiters; ++i) joined(threads[i]);
  printf("%d woken\n", atomic_load(&woken));
}

int main(void) {
  all(FUTEX_REQUEUE);
  all(FUTEX_CMP_REQUEUE);
  private_flag = FUTEX_PRIVATE_FLAG;
  all(FUTEX_REQUEUE);
  all(FUTEX_CMP_REQUEUE);
  return 0;
}
