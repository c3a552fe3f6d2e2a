// Clocks and the time stamp counter never go back from one thread to the next.
// flags: -pthread
// native: output
#include <sys/time.h>
#include <x86intrin.h>

#include "threads.h"

enum { kThreads = 3, kRounds = 150 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static long last[3];
static long nanoseconds(clockid_t clock) {
  struct timespec time;
  CHECK(clock_gettime(clock, &time) == 0);
  return time.tv_sec * 1000000000 + time.tv_nsec;
}
static void* look(void* unused) {
  (void)unused;
  for (int i = 0; i < kRounds; ++i) {
    CHECK_OK(pthread_mutex_lock(&mutex));
    _mm_lfence();
    const long now[3] = {nanoseconds(CLOCK_MONOTONIC), nanoseconds(CLOCK_BOOTTIME), (long)__rdtsc()};
    for (int n = 0; n < 3; ++n) {
      CHECK(now[n] >= last[n]);
      last[n] = now[n];
    }
    CHECK_OK(pthread_mutex_unlock(&mutex));
    struct timeval time;
    CHECK(gettimeofday(&time, NULL) == 0);
  }
  return NULL;
}

int main(void) {
  pthread_t threads[kThreads];
  for (int i = 0; i < kThreads; ++i) threads[i] = started(look, NULL);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  printf("onwards\n");
  return 0;
}
