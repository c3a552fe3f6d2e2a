// A mutex, a condition and a semaphore of libc that processes share.
// flags: -pthread
// native: output
// no-checkpoints: it shares memory
// expect-output: 400 added, 40 handed over, 5 posted
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"
#include "shared_mutex.h"

enum { kChildren = 4, kTimes = 100, kItems = 40 };

struct shared {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  sem_t semaphore;
  unsigned added, item, taken;
};

static void child_main(struct shared* shared, int number) {
  for (int i = 0; i < kTimes; ++i) {
    CHECK(pthread_mutex_lock(&shared->mutex) == 0);
    const unsigned before = shared->added;
    if (i % 10 == 0) usleep(100);
    shared->added = before + 1;
    CHECK(pthread_mutex_unlock(&shared->mutex) == 0);
  }
  for (int i = 0; i < kItems / kChildren; ++i) {
    CHECK(pthread_mutex_lock(&shared->mutex) == 0);
    while (shared->item == 0) CHECK(pthread_cond_wait(&shared->changed, &shared->mutex) == 0);
    shared->item = 0;
    shared->taken++;
    CHECK(pthread_cond_broadcast(&shared->changed) == 0 && pthread_mutex_unlock(&shared->mutex) == 0);
  }
  CHECK(sem_post(&shared->semaphore) == 0);
  _exit(number);
}

int main(void) {
  struct shared* const shared = map_shared_page();
  pthread_condattr_t of_condition;
  CHECK(pthread_condattr_init(&of_condition) == 0);
  CHECK(pthread_condattr_setpshared(&of_condition, PTHREAD_PROCESS_SHARED) == 0);
  make_shared_mutex(&shared->mutex, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE);
  CHECK(pthread_cond_init(&shared->changed, &of_condition) == 0);
  CHECK(sem_init(&shared->semaphore, 1, 1) == 0);
  for (int i = 0; i < kChildren; ++i) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) child_main(shared, i);
  }
  for (int i = 0; i < kItems; ++i) {
    CHECK(pthread_mutex_lock(&shared->mutex) == 0);
    while (shared->item != 0) CHECK(pthread_cond_wait(&shared->changed, &shared->mutex) == 0);
    shared->item = 1;
    CHECK(pthread_cond_broadcast(&shared->changed) == 0 && pthread_mutex_unlock(&shared->mutex) == 0);
  }
  int posted = 0;
  for (int i = 0; i <= kChildren; ++i) posted += sem_wait(&shared->semaphore) == 0;
  for (int i = 0; i < kChildren; ++i) {
    int status = 0;
    CHECK(wait(&status) > 0 && WIFEXITED(status));
  }
  printf("%u added, %u handed over, %d posted\n", shared->added, shared->taken, posted);
  return 0;
}
