// Thread-local storage: __thread with and without a first value, errno, keys whose destructors run, again
// where they set a value, and in each thread for its own.
// flags: -pthread
// native: output
#include "threads.h"

enum { kThreads = 4 };
static __thread int counted = 5;
static __thread char text[3000];
static __thread struct { long value; } aligned __attribute__((aligned(64)));
static pthread_key_t key, again;
static atomic_int destroyed, destroyed_again;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int made;

static void destroy(void* value) { atomic_fetch_add(&destroyed, *(int*)value), free(value); }
static void destroy_again(void* value) {
  atomic_fetch_add(&destroyed_again, 1);
  if ((intptr_t)value > 1) CHECK_OK(pthread_setspecific(again, (void*)((intptr_t)value - 1)));
}
static void make_keys(void) {
  ++made;
  CHECK_OK(pthread_key_create(&key, destroy));
  CHECK_OK(pthread_key_create(&again, destroy_again));
}
static void* work(void* argument) {
  const int me = (int)(intptr_t)argument;
  CHECK_OK(pthread_once(&once, make_keys));
  CHECK(pthread_getspecific(key) == NULL && counted == 5 && text[0] == 0 && text[2999] == 0);
  CHECK((uintptr_t)&aligned % 64 == 0);
  int* value = malloc(sizeof *value);
  *value = me + 1;
  CHECK_OK(pthread_setspecific(key, value));
  CHECK_OK(pthread_setspecific(again, (void*)2));
  for (int i = 0; i < 200; ++i) {
    counted += me, aligned.value += counted;
    text[i] = (char)me;
    errno = me;
    if (i % 10 == 0) sched_yield();
    CHECK(errno == me && text[i] == me && pthread_getspecific(key) == value);
  }
  return (void*)(intptr_t)(counted + aligned.value);
}

int main(void) {
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  for (int i = 0; i < kThreads; ++i) printf("%ld\n", (long)joined(threads[i]));
  CHECK(counted == 5 && made == 1);
  printf("destroyed %d, %d\n", atomic_load(&destroyed), atomic_load(&destroyed_again));
  return 0;
}
