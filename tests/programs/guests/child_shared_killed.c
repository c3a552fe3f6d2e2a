// A process that computes in shared memory, and holds a robust lock there, is killed: the lock's next owner
// hears of it, and the others go on.
// flags: -pthread
// native: output
// no-checkpoints: it shares memory
// expect-output: the owner died, 1
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"
#include "shared_mutex.h"

struct shared {
  pthread_mutex_t mutex;
  volatile unsigned long count;
};

int main(void) {
  struct shared* const shared = map_shared_page();
  make_shared_mutex(&shared->mutex, PTHREAD_MUTEX_ROBUST, PTHREAD_PRIO_NONE);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    CHECK(pthread_mutex_lock(&shared->mutex) == 0);
    for (;;) shared->count++;
  }
  while (shared->count < 1000) continue;
  CHECK(kill(child, SIGKILL) == 0);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  const unsigned long last = shared->count;
  CHECK(pthread_mutex_lock(&shared->mutex) == EOWNERDEAD);
  CHECK(pthread_mutex_consistent(&shared->mutex) == 0 && pthread_mutex_unlock(&shared->mutex) == 0);
  printf("the owner died, %d\n", shared->count == last);
  return 0;
}
