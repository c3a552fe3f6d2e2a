// Mutexes that inherit priority, and the calls behind them, as long as nobody has to wait.
// flags: -pthread
// native: output
#include "threads.h"

static pthread_mutex_t mutex;
static int count;
static atomic_uint word;
static void* work(void* unused) {
  (void)unused;
  CHECK_ERRNO(futex(&word, FUTEX_TRYLOCK_PI_PRIVATE, 0, NULL, NULL, 0), EAGAIN);
  CHECK_ERRNO(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0), EPERM);
  for (int i = 0; i < 100; ++i) {
    CHECK_OK(pthread_mutex_lock(&mutex));
    ++count;
    CHECK_OK(pthread_mutex_unlock(&mutex));
  }
  return NULL;
}

int main(void) {
  CHECK(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0);
  CHECK(atomic_load(&word) == (unsigned)gettid());
  CHECK_ERRNO(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0), EDEADLK);
  pthread_mutexattr_t attributes;
  CHECK_OK(pthread_mutexattr_init(&attributes));
  CHECK_OK(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT));
  CHECK_OK(pthread_mutex_init(&mutex, &attributes));
  for (int i = 0; i < 3; ++i) joined(started(work, NULL));
  CHECK(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0 && atomic_load(&word) == 0);
  printf("%d\n", count);
  return 0;
}
