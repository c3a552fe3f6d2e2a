// The futex call: waits and wakes, private and shared, counts of who was woken, and a word that isn't as
// expected.
// flags: -pthread
// native: output
#include <sys/mman.h>

#include "threads.h"

enum { kWaiters = 4 };
static atomic_uint* word;
static int private_flag;
static atomic_int woken;

static void* wait_for_it(void* unused) {
  (void)unused;
  CHECK(futex(word, FUTEX_WAIT | private_flag, 7, NULL, NULL, 0) == 0);
  atomic_fetch_add(&woken, 1);
  return NULL;
}
// Wakes `count` of those that wait or will.
static void wake(int count) {
  while (count > 0) {
    const long result = futex(word, FUTEX_WAKE | private_flag, (unsigned)count, NULL, NULL, 0);
    CHECK(result >= 0 && result <= count);
    count -= (int)result;
    sched_yield();
  }
}
static void all(void) {
  pthread_t threads[kWaiters];
  atomic_store(word, 7), atomic_store(&woken, 0);
  for (int i = 0; i < kWaiters; ++i) threads[i] = started(wait_for_it, NULL);
  wake(1);
  while (atomic_load(&woken) < 1) sched_yield();
  nap(2);
  CHECK(atomic_load(&woken) == 1);
  wake(kWaiters - 1);
  for (int i = 0; i < kWaiters; ++i) joined(threads[i]);
  CHECK(atomic_load(&woken) == kWaiters);
  CHECK(futex(word, FUTEX_WAKE | private_flag, INT_MAX, NULL, NULL, 0) == 0);
  CHECK_ERRNO(futex(word, FUTEX_WAIT | private_flag, 8, NULL, NULL, 0), EAGAIN);
  printf("%d woken\n", atomic_load(&woken));
}

int main(void) {
  static atomic_uint local;
  word = &local;
  all();
  private_flag = FUTEX_PRIVATE_FLAG;
  all();
  private_flag = 0;
  // Two mappings of the same memory are one futex, but not for those that say that it is private.
  const int fd = memfd_create("word", 0);
  CHECK(fd >= 0 && ftruncate(fd, 4096) == 0);
  word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  atomic_uint* other = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(word != MAP_FAILED && other != MAP_FAILED);
  all();
  atomic_store(word, 7);
  const pthread_t thread = started(wait_for_it, NULL);
  CHECK(futex(other, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == 0);
  word = other;
  wake(1);
  joined(thread);
  printf("by another mapping\n");
  return 0;
}
