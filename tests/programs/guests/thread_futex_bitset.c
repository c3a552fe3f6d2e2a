// Futex waiters with bit sets: only those that share a bit are woken.
// flags: -pthread
// native: output
#include "threads.h"

static atomic_uint word;
static atomic_int woken;

static void* wait_for_it(void* bits) {
  CHECK(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, (unsigned)(uintptr_t)bits) == 0);
  atomic_fetch_or(&woken, (int)(intptr_t)bits);
  return NULL;
}
static void wake(int count, unsigned bits) {
  while (count > 0) {
    const long result = futex(&word, FUTEX_WAKE_BITSET_PRIVATE, INT_MAX, NULL, NULL, bits);
    CHECK(result >= 0 && result <= count);
    count -= (int)result;
    sched_yield();
  }
}

int main(void) {
  const pthread_t one = started(wait_for_it, (void*)1), two = started(wait_for_it, (void*)2),
                  four = started(wait_for_it, (void*)4);
  wake(1, 2);
  joined(two);
  CHECK(atomic_load(&woken) == 2);
  CHECK(futex(&word, FUTEX_WAKE_BITSET_PRIVATE, INT_MAX, NULL, NULL, 0x100) == 0);
  wake(2, 5);
  joined(one), joined(four);
  // Waiters without bits have all.
  const pthread_t any = started(wait_for_it, (void*)0xffffffff);
  wake(1, 0x80000000);
  joined(any);
  CHECK_ERRNO(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, 0), EINVAL);
  CHECK_ERRNO(futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL, 0), EINVAL);
  CHECK_ERRNO(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 1, NULL, NULL, 1), EAGAIN);
  printf("%#x\n", (unsigned)atomic_load(&woken));
  return 0;
}
