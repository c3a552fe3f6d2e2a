// Threads that end with a result, by return and by pthread_exit, joined in another order than they were made;
// attributes; what pthread_join says of itself.
// flags: -pthread
// native: output
#include "threads.h"

enum { kThreads = 8, kStack = 256 * 1024 };

static void* square(void* number) { return (void*)((intptr_t)number * (intptr_t)number); }
static void* leave(void* result) {
  pthread_exit(result);
  return NULL;
}
static void* join_itself(void* unused) {
  (void)unused;
  return (void*)(intptr_t)pthread_join(pthread_self(), NULL);
}
static char stack[kStack] __attribute__((aligned(4096)));
static void* where(void* unused) {
  (void)unused;
  return __builtin_frame_address(0);
}
static void* forever(void* ends) {
  while (!atomic_load((atomic_int*)ends)) nap(1);
  return ends;
}

int main(void) {
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(i % 2 ? leave : square, (void*)(i + 10));
  for (int i = kThreads - 1; i >= 0; --i) printf("%d: %ld\n", i, (long)joined(threads[i]));
  CHECK((intptr_t)joined(started(join_itself, NULL)) == EDEADLK);

  pthread_attr_t attributes;
  CHECK_OK(pthread_attr_init(&attributes));
  CHECK_OK(pthread_attr_setstack(&attributes, stack, sizeof stack));
  CHECK_OK(pthread_create(&threads[0], &attributes, where, NULL));
  const char* frame = joined(threads[0]);
  CHECK(frame > stack && frame < stack + sizeof stack);
  CHECK_OK(pthread_attr_init(&attributes));
  CHECK_OK(pthread_attr_setstacksize(&attributes, kStack));
  CHECK_OK(pthread_attr_setguardsize(&attributes, 65536));
  CHECK_OK(pthread_create(&threads[0], &attributes, square, (void*)30));
  CHECK((intptr_t)joined(threads[0]) == 900);

  atomic_int ends = 0;
  threads[0] = started(forever, &ends);
  CHECK(pthread_tryjoin_np(threads[0], NULL) == EBUSY);
  struct timespec soon = from_now(CLOCK_REALTIME, 5);
  CHECK(pthread_timedjoin_np(threads[0], NULL, &soon) == ETIMEDOUT);
  atomic_store(&ends, 1);
  CHECK(joined(threads[0]) == &ends);
  printf("joined\n");
  return 0;
}
