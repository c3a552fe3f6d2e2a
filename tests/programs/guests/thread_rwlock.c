// Read-write locks: readers together, writers alone; what can't be had at once; writers first.
// flags: -pthread
// native: output
#include "threads.h"

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static volatile int values[2];
static atomic_int readers, most;
static pthread_barrier_t both;

static void* write_it(void* unused) {
  (void)unused;
  for (int i = 0; i < 200; ++i) {
    CHECK_OK(pthread_rwlock_wrlock(&lock));
    CHECK(atomic_load(&readers) == 0);
    ++values[0];
    if (i % 20 == 0) sched_yield();
    ++values[1];
    CHECK_OK(pthread_rwlock_unlock(&lock));
  }
  return NULL;
}
static void* read_it(void* unused) {
  (void)unused;
  for (int i = 0; i < 200; ++i) {
    CHECK_OK(pthread_rwlock_rdlock(&lock));
    atomic_fetch_add(&readers, 1);
    CHECK(values[0] == values[1]);
    if (i % 20 == 0) sched_yield();
    atomic_fetch_sub(&readers, 1);
    CHECK_OK(pthread_rwlock_unlock(&lock));
  }
  return NULL;
}
static void* read_together(void* unused) {
  (void)unused;
  CHECK_OK(pthread_rwlock_rdlock(&lock));
  pthread_barrier_wait(&both);
  CHECK(pthread_rwlock_trywrlock(&lock) == EBUSY);
  struct timespec soon = from_now(CLOCK_REALTIME, 2);
  const int result = pthread_rwlock_timedwrlock(&lock, &soon);
  CHECK(result == ETIMEDOUT || result == EDEADLK);
  pthread_barrier_wait(&both);
  atomic_fetch_add(&most, 1);
  CHECK_OK(pthread_rwlock_unlock(&lock));
  return NULL;
}

int main(void) {
  pthread_t threads[5];
  for (int i = 0; i < 5; ++i) threads[i] = started(i < 2 ? write_it : read_it, NULL);
  for (int i = 0; i < 5; ++i) joined(threads[i]);
  printf("%d %d\n", values[0], values[1]);
  CHECK_OK(pthread_barrier_init(&both, NULL, 3));
  for (int i = 0; i < 3; ++i) threads[i] = started(read_together, NULL);
  for (int i = 0; i < 3; ++i) joined(threads[i]);
  CHECK_OK(pthread_rwlock_wrlock(&lock));
  CHECK(pthread_rwlock_tryrdlock(&lock) == EBUSY);
  CHECK_OK(pthread_rwlock_unlock(&lock));
  printf("%d readers together\n", atomic_load(&most));
  return 0;
}
