// Condition variables: one is woken, all are woken, a time passes; a queue between makers and takers.
// flags: -pthread
// native: output
#include "threads.h"

enum { kItems = 600, kPlaces = 4 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t not_empty = PTHREAD_COND_INITIALIZER, not_full = PTHREAD_COND_INITIALIZER, go;
static int queue[kPlaces], head, tail, taken, started_at, waiting, woken;

static void* make(void* argument) {
  for (int i = (int)(intptr_t)argument; i < kItems; i += 3) {
    CHECK_OK(pthread_mutex_lock(&mutex));
    while (tail - head == kPlaces) CHECK_OK(pthread_cond_wait(&not_full, &mutex));
    queue[tail++ % kPlaces] = i;
    CHECK_OK(pthread_cond_signal(&not_empty));
    CHECK_OK(pthread_mutex_unlock(&mutex));
  }
  return NULL;
}
static void* take(void* argument) {
  intptr_t sum = 0;
  (void)argument;
  for (;;) {
    CHECK_OK(pthread_mutex_lock(&mutex));
    while (tail == head && taken < kItems) CHECK_OK(pthread_cond_wait(&not_empty, &mutex));
    if (taken == kItems) break;
    sum += queue[head++ % kPlaces];
    if (++taken == kItems) CHECK_OK(pthread_cond_broadcast(&not_empty));
    CHECK_OK(pthread_cond_signal(&not_full));
    CHECK_OK(pthread_mutex_unlock(&mutex));
  }
  CHECK_OK(pthread_mutex_unlock(&mutex));
  return (void*)sum;
}
static void* wait_for_go(void* unused) {
  (void)unused;
  CHECK_OK(pthread_mutex_lock(&mutex));
  ++waiting;
  while (!started_at) CHECK_OK(pthread_cond_wait(&go, &mutex));
  ++woken;
  CHECK_OK(pthread_mutex_unlock(&mutex));
  return NULL;
}

int main(void) {
  pthread_condattr_t attributes;
  CHECK_OK(pthread_condattr_init(&attributes));
  CHECK_OK(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC));
  CHECK_OK(pthread_cond_init(&go, &attributes));
  pthread_t threads[6];
  for (intptr_t i = 0; i < 3; ++i) threads[i] = started(make, (void*)i), threads[i + 3] = started(take, NULL);
  intptr_t sum = 0;
  for (int i = 0; i < 6; ++i) sum += (intptr_t)joined(threads[i]);
  printf("sum %ld\n", (long)sum);

  for (int i = 0; i < 6; ++i) threads[i] = started(wait_for_go, NULL);
  CHECK_OK(pthread_mutex_lock(&mutex));
  struct timespec soon = from_now(CLOCK_MONOTONIC, 3);
  while (waiting < 6) {
    // Nobody signals: only the time can end it.
    const int result = pthread_cond_timedwait(&go, &mutex, &soon);
    CHECK(result == ETIMEDOUT || result == 0);
    soon = from_now(CLOCK_MONOTONIC, 3);
  }
  started_at = 1;
  CHECK_OK(pthread_cond_broadcast(&go));
  CHECK_OK(pthread_mutex_unlock(&mutex));
  for (int i = 0; i < 6; ++i) joined(threads[i]);
  printf("woken %d\n", woken);
  return 0;
}
