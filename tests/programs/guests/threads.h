// What the guests with threads share.
#pragma once

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

#include "check.h"

// A call that returns its error, as those of pthreads do, has none.
#define CHECK_OK(call) CHECK((errno = (call)) == 0)

__attribute__((unused)) static pthread_t started(void* (*function)(void*), void* argument) {
  pthread_t thread;
  CHECK_OK(pthread_create(&thread, NULL, function, argument));
  return thread;
}

__attribute__((unused)) static void* joined(pthread_t thread) {
  void* result;
  CHECK_OK(pthread_join(thread, &result));
  return result;
}

// The call itself. `fourth` is a timeout or a number.
__attribute__((unused)) static long futex(atomic_uint* word, int operation, unsigned value,
                                          const void* fourth, atomic_uint* other, unsigned last) {
  return syscall(SYS_futex, word, operation, value, fourth, other, last);
}

__attribute__((unused)) static void nap(long milliseconds) {
  struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  while (nanosleep(&left, &left) == -1) CHECK(errno == EINTR);
}

// `milliseconds` from now on `clock`.
__attribute__((unused)) static struct timespec from_now(clockid_t clock, long milliseconds) {
  struct timespec time;
  CHECK(clock_gettime(clock, &time) == 0);
  time.tv_nsec += milliseconds % 1000 * 1000000;
  time.tv_sec += milliseconds / 1000 + time.tv_nsec / 1000000000;
  time.tv_nsec %= 1000000000;
  return time;
}

// Returns when thread `tid` of this process sleeps in the kernel. It may be another sleep than the one that
// is meant, so no verdict may hang on it: it makes the rare order of things the usual one.
__attribute__((unused)) static void until_asleep(int tid) {
  char path[60], text[400];
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
  for (int tries = 0; tries < 200; ++tries) {
    FILE* file = fopen(path, "r");
    CHECK(file);
    const char* end = fgets(text, sizeof text, file) ? strrchr(text, ')') : NULL;
    fclose(file);
    CHECK(end);
    if (end[2] == 'S') return;
    nap(1);
  }
}

// What a thread tells of itself before it goes to wait for something.
__attribute__((unused)) static int until_set(const atomic_int* value) {
  int seen;
  while (!(seen = atomic_load(value))) sched_yield();
  return seen;
}

// So many steps of something that no compiler takes away.
__attribute__((unused)) static void compute_for(int steps) {
  for (unsigned n = 1; steps > 0; --steps) {
    n = n * 1664525 + 1013904223;
    asm volatile("" : "+r"(n));
  }
}

// Of a generator that is the same everywhere.
__attribute__((unused)) static unsigned next_random(unsigned* state) {
  *state = *state * 1664525 + 1013904223;
  return *state >> 8;
}
