// Futex waits that end by time: for so long, until then by either clock, times long ago, times that are none.
// flags: -pthread
// native: output
#include "threads.h"

static atomic_uint word;
static long waited(int operation, clockid_t clock, int absolute, long milliseconds) {
  struct timespec time = {0, milliseconds * 1000000};
  if (absolute) time = from_now(clock, milliseconds);
  const struct timespec begin = from_now(CLOCK_MONOTONIC, milliseconds);
  CHECK_ERRNO(futex(&word, operation, 0, &time, NULL, ~0u), ETIMEDOUT);
  const struct timespec end = from_now(CLOCK_MONOTONIC, 0);
  return end.tv_sec > begin.tv_sec || (end.tv_sec == begin.tv_sec && end.tv_nsec >= begin.tv_nsec);
}
static void* other(void* unused) {
  (void)unused;
  for (int i = 0; i < 2; ++i) {
    CHECK(waited(FUTEX_WAIT, 0, 0, 3) && waited(FUTEX_WAIT_PRIVATE, 0, 0, 3));
    CHECK(waited(FUTEX_WAIT_BITSET_PRIVATE, CLOCK_MONOTONIC, 1, 3));
    waited(FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, CLOCK_REALTIME, 1, 3);
  }
  return NULL;
}

int main(void) {
  const pthread_t first = started(other, NULL), second = started(other, NULL);
  other(NULL);
  joined(first), joined(second);
  const struct timespec past = {1, 0}, none = {0, -1}, too_many = {0, 1000000000}, before = {-1, 0};
  CHECK_ERRNO(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &past, NULL, ~0u), ETIMEDOUT);
  CHECK_ERRNO(futex(&word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &past, NULL, ~0u), ETIMEDOUT);
  CHECK_ERRNO(futex(&word, FUTEX_WAIT_PRIVATE, 0, &(struct timespec){0, 0}, NULL, 0), ETIMEDOUT);
  CHECK_ERRNO(futex(&word, FUTEX_WAIT_PRIVATE, 1, &past, NULL, 0), EAGAIN);
  CHECK_ERRNO(futex(&word, FUTEX_WAIT_PRIVATE, 0, &none, NULL, 0), EINVAL);
  CHECK_ERRNO(futex(&word, FUTEX_WAIT_PRIVATE, 0, &too_many, NULL, 0), EINVAL);
  CHECK_ERRNO(futex(&word, FUTEX_WAIT_PRIVATE, 0, &before, NULL, 0), EINVAL);
  printf("timed out\n");
  return 0;
}
