// Times of threads: those that compute have some, one that sleeps has hardly any, the process has all of
// them.
// flags: -pthread
// native: status
#include <sys/resource.h>

#include "threads.h"

static pthread_barrier_t barrier;
static long nanoseconds(clockid_t clock) {
  struct timespec time;
  CHECK(clock_gettime(clock, &time) == 0 && time.tv_nsec >= 0 && time.tv_nsec < 1000000000);
  return time.tv_sec * 1000000000 + time.tv_nsec;
}
static long used(int who) {
  struct rusage usage;
  CHECK(getrusage(who, &usage) == 0);
  return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000 +
         (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
}
static void* compute(void* unused) {
  (void)unused;
  unsigned state = 1;
  const long begin = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
  long last = begin;
  while (last < begin + 3000000) {
    for (int i = 0; i < 2000; ++i) next_random(&state);
    const long now = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    CHECK(now >= last);
    last = now;
  }
  CHECK(used(RUSAGE_THREAD) <= used(RUSAGE_SELF));
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  return (void*)(last - begin);
}
static void* sleeps(void* unused) {
  (void)unused;
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  return NULL;
}

int main(void) {
  CHECK_OK(pthread_barrier_init(&barrier, NULL, 3));
  const pthread_t computing = started(compute, NULL), sleeping = started(sleeps, NULL);
  clockid_t of_computing, of_sleeping;
  CHECK_OK(pthread_getcpuclockid(computing, &of_computing));
  CHECK_OK(pthread_getcpuclockid(sleeping, &of_sleeping));
  pthread_barrier_wait(&barrier);
  const long long_one = nanoseconds(of_computing), short_one = nanoseconds(of_sleeping);
  const long all = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
  CHECK(long_one >= 3000000 && short_one < long_one);
  CHECK(all >= long_one && clock() >= 3000);
  pthread_barrier_wait(&barrier);
  const long spent = (long)joined(computing);
  joined(sleeping);
  CHECK(spent >= 3000000);
  printf("%ld %ld %ld %ld\n", long_one, short_one, all, spent);
  return 0;
}
