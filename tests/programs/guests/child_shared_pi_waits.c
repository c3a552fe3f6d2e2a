// A process has to wait for a mutex that inherits priority, and that another process has: refused by name.
// flags: -pthread
// expect: exit 69
// says: futex (a thread that waits for a lock with priority inheritance)
// no-checkpoints: it shares memory
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"
#include "shared_mutex.h"

int main(void) {
  struct {
    pthread_mutex_t mutex;
    volatile int locked;
  }* const shared = map_shared_page();
  make_shared_mutex(&shared->mutex, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_INHERIT);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    CHECK(pthread_mutex_lock(&shared->mutex) == 0);
    shared->locked = 1;
    usleep(300000);
    CHECK(pthread_mutex_unlock(&shared->mutex) == 0);
    return 0;
  }
  while (!shared->locked) usleep(1000);
  CHECK(pthread_mutex_lock(&shared->mutex) == 0 && pthread_mutex_unlock(&shared->mutex) == 0);
  CHECK(waitpid(child, NULL, 0) == child);
  return 0;
}
