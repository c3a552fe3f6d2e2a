// Recursive mutexes and those that check; what others get meanwhile; waiting for a time only.
// flags: -pthread
// native: output
#include "threads.h"

static pthread_mutex_t recursive, checking, plain = PTHREAD_MUTEX_INITIALIZER;
static int count;

static void* other(void* unused) {
  (void)unused;
  CHECK(pthread_mutex_trylock(&recursive) == EBUSY && pthread_mutex_trylock(&plain) == EBUSY);
  CHECK(pthread_mutex_unlock(&checking) == EPERM && pthread_mutex_unlock(&recursive) == EPERM);
  struct timespec soon = from_now(CLOCK_REALTIME, 3);
  CHECK(pthread_mutex_timedlock(&plain, &soon) == ETIMEDOUT);
  soon = from_now(CLOCK_MONOTONIC, 3);
  CHECK(pthread_mutex_clocklock(&plain, CLOCK_MONOTONIC, &soon) == ETIMEDOUT);
  return NULL;
}
static void* recurse(void* argument) {
  const intptr_t depth = (intptr_t)argument;
  for (intptr_t i = 0; i < depth; ++i) {
    CHECK_OK(pthread_mutex_lock(&recursive));
    ++count;
  }
  for (intptr_t i = 0; i < depth; ++i) CHECK_OK(pthread_mutex_unlock(&recursive));
  return NULL;
}

int main(void) {
  pthread_mutexattr_t attributes;
  CHECK_OK(pthread_mutexattr_init(&attributes));
  CHECK_OK(pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE));
  CHECK_OK(pthread_mutex_init(&recursive, &attributes));
  CHECK_OK(pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK));
  CHECK_OK(pthread_mutex_init(&checking, &attributes));
  CHECK_OK(pthread_mutex_lock(&recursive));
  CHECK_OK(pthread_mutex_lock(&recursive));
  CHECK_OK(pthread_mutex_lock(&checking));
  CHECK_OK(pthread_mutex_lock(&plain));
  CHECK(pthread_mutex_lock(&checking) == EDEADLK);
  joined(started(other, NULL));
  const pthread_t first = started(recurse, (void*)10), second = started(recurse, (void*)20);
  nap(2);
  CHECK(count == 0);
  CHECK_OK(pthread_mutex_unlock(&recursive));
  nap(2);
  CHECK(count == 0);
  CHECK_OK(pthread_mutex_unlock(&recursive));
  joined(first), joined(second);
  CHECK_OK(pthread_mutex_unlock(&checking));
  CHECK_OK(pthread_mutex_unlock(&plain));
  printf("%d\n", count);
  return 0;
}
