// Cancellation at calls: in a read that waits, in a sleep, a condition, a join; cleanup runs, locks are taken
// back; disabled for a while; before the call is reached.
// flags: -pthread
// native: output
#include "threads.h"

static int pipes[2];
static atomic_int tid, told;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;

static void clean(void* text) { printf("cleaned: %s\n", (const char*)text); }
static void unlock(void* lock) { CHECK_OK(pthread_mutex_unlock(lock)); }

static void* in_read(void* unused) {
  char byte;
  (void)unused;
  pthread_cleanup_push(clean, "read");
  atomic_store(&tid, gettid());
  CHECK(read(pipes[0], &byte, 1) < 0);
  pthread_cleanup_pop(0);
  return NULL;
}
static void* in_sleep(void* unused) {
  (void)unused;
  pthread_cleanup_push(clean, "outer");
  pthread_cleanup_push(clean, "sleep");
  atomic_store(&tid, gettid());
  for (;;) sleep(1);
  pthread_cleanup_pop(0);
  pthread_cleanup_pop(0);
  return NULL;
}
static void* in_condition(void* unused) {
  (void)unused;
  CHECK_OK(pthread_mutex_lock(&mutex));
  pthread_cleanup_push(unlock, &mutex);
  atomic_store(&tid, gettid());
  for (;;) pthread_cond_wait(&condition, &mutex);
  pthread_cleanup_pop(1);
  return NULL;
}
static void* in_join(void* thread) {
  atomic_store(&tid, gettid());
  pthread_join(*(pthread_t*)thread, NULL);
  return NULL;
}
static void* disabled(void* unused) {
  int old;
  (void)unused;
  CHECK_OK(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old));
  atomic_store(&tid, gettid());
  while (!atomic_load(&told)) nap(1);
  pthread_testcancel();
  printf("not yet\n");
  CHECK_OK(pthread_setcancelstate(old, NULL));
  pthread_testcancel();
  return NULL;
}
static void cancel(void* (*function)(void*), void* argument, int asleep) {
  atomic_store(&tid, 0), atomic_store(&told, 0);
  const pthread_t thread = started(function, argument);
  until_set(&tid);
  if (asleep) until_asleep(atomic_load(&tid));
  CHECK_OK(pthread_cancel(thread));
  atomic_store(&told, 1);
  CHECK(joined(thread) == PTHREAD_CANCELED);
}

int main(void) {
  CHECK(pipe(pipes) == 0);
  for (int asleep = 0; asleep < 2; ++asleep) {
    cancel(in_read, NULL, asleep);
    cancel(in_sleep, NULL, asleep);
    cancel(in_condition, NULL, asleep);
    CHECK_OK(pthread_mutex_trylock(&mutex));
    CHECK_OK(pthread_mutex_unlock(&mutex));
    pthread_t waited_for = started(in_read, NULL);
    cancel(in_join, &waited_for, asleep);
    CHECK_OK(pthread_cancel(waited_for));
    CHECK(joined(waited_for) == PTHREAD_CANCELED);
    cancel(disabled, NULL, asleep);
  }
  return 0;
}
