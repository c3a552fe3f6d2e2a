// A thread that has to wait for a mutex that inherits priority: refused by name, never done by half.
// flags: -pthread
// expect: exit 69
// says: futex (a thread that waits for a lock with priority inheritance)
#include "threads.h"

static pthread_mutex_t mutex;
static void* work(void* unused) {
  (void)unused;
  CHECK_OK(pthread_mutex_lock(&mutex));
  CHECK_OK(pthread_mutex_unlock(&mutex));
  return NULL;
}

int main(void) {
  pthread_mutexattr_t attributes;
  CHECK_OK(pthread_mutexattr_init(&attributes));
  CHECK_OK(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT));
  CHECK_OK(pthread_mutex_init(&mutex, &attributes));
  CHECK_OK(pthread_mutex_lock(&mutex));
  const pthread_t thread = started(work, NULL);
  nap(1000);
  CHECK_OK(pthread_mutex_unlock(&mutex));
  joined(thread);
  return 0;
}
