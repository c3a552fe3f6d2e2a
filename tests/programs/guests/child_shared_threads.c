// Processes of several threads each that add to one number, by compare-and-exchange and with a lock in turn;
// one ends by execve, and its own threads with it.
// flags: -pthread
// native: output
// no-checkpoints: it shares memory
// expect-output: 6000 and 6000
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"
#include "shared_mutex.h"

enum { kChildren = 2, kThreads = 3, kTimes = 1000 };

static struct shared {
  pthread_mutex_t mutex;
  unsigned exchanged, locked;
} * shared;

static void* add(void* unused) {
  for (int i = 0; i < kTimes; ++i) {
    unsigned before = __atomic_load_n(&shared->exchanged, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&shared->exchanged, &before, before + 1, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED))
      continue;
    CHECK(pthread_mutex_lock(&shared->mutex) == 0);
    shared->locked++;
    if (i % 200 == 0) usleep(10);
    CHECK(pthread_mutex_unlock(&shared->mutex) == 0);
  }
  return unused;
}

static void* sleep_long(void* unused) {
  pause();
  return unused;
}

int main(void) {
  shared = map_shared_page();
  make_shared_mutex(&shared->mutex, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE);
  for (int i = 0; i < kChildren; ++i) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child != 0) continue;
    pthread_t threads[kThreads], other;
    for (int t = 0; t < kThreads; ++t) CHECK(pthread_create(&threads[t], NULL, add, NULL) == 0);
    for (int t = 0; t < kThreads; ++t) CHECK(pthread_join(threads[t], NULL) == 0);
    CHECK(pthread_create(&other, NULL, sleep_long, NULL) == 0);
    if (i == 0) execl("/bin/true", "true", (char*)NULL);
    _exit(i == 0);
  }
  for (int i = 0; i < kChildren; ++i) {
    int status = 0;
    CHECK(wait(&status) > 0 && status == 0);
  }
  printf("%u and %u\n", shared->exchanged, shared->locked);
  return 0;
}
