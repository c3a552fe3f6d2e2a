// A barrier used again and again: nobody is a round ahead, and one of each round is told so.
// flags: -pthread
// native: output
#include "threads.h"

enum { kThreads = 5, kRounds = 40 };
static pthread_barrier_t barrier;
static atomic_int rounds[kThreads], serials;

static void* work(void* argument) {
  const int me = (int)(intptr_t)argument;
  for (int round = 1; round <= kRounds; ++round) {
    atomic_store(&rounds[me], round);
    const int result = pthread_barrier_wait(&barrier);
    CHECK(result == 0 || result == PTHREAD_BARRIER_SERIAL_THREAD);
    if (result) atomic_fetch_add(&serials, 1);
    for (int i = 0; i < kThreads; ++i) CHECK(rounds[i] == round || rounds[i] == round + 1);
    pthread_barrier_wait(&barrier);
  }
  return NULL;
}

int main(void) {
  CHECK_OK(pthread_barrier_init(&barrier, NULL, kThreads));
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  CHECK_OK(pthread_barrier_destroy(&barrier));
  printf("%d rounds\n", atomic_load(&serials));
  return 0;
}
