// A process that holds a robust lock which others share executes a program: who waits, or comes later, is
// told that the owner is gone. Not so where the lock has the number of a thread that is not the first one:
// the kernel does not find it.
// flags: -pthread
// native: output
// no-checkpoints: it shares memory
// expect-output: waited: 130, came later: 130, another thread's: 110
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "check.h"
#include "shared_mutex.h"

enum { kMutexes = 3 };
static struct {
  pthread_mutex_t mutexes[kMutexes];
  volatile int locked;
} * shared;

static void* execute(void* mutex) {
  char* const arguments[] = {"sleep", "0.2", NULL};
  if (mutex != NULL) CHECK(pthread_mutex_lock(mutex) == 0);
  shared->locked = 1;
  usleep(20000);  // it is waited for
  execv("/bin/sleep", arguments);
  return NULL;
}

static int lock(pthread_mutex_t* mutex) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += 1;
  return pthread_mutex_timedlock(mutex, &until);
}

int main(void) {
  shared = map_shared_page();
  for (int i = 0; i < kMutexes; ++i)
    make_shared_mutex(&shared->mutexes[i], PTHREAD_MUTEX_ROBUST, PTHREAD_PRIO_NONE);
  int results[kMutexes], status;
  for (int by_other = 0; by_other < 2; ++by_other) {
    shared->locked = 0;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0 && by_other) {
      pthread_t thread;
      CHECK(pthread_create(&thread, NULL, execute, &shared->mutexes[2]) == 0);
      pthread_join(thread, NULL);
      _exit(1);
    }
    if (child == 0) {
      for (int i = 0; i < 2; ++i) CHECK(pthread_mutex_lock(&shared->mutexes[i]) == 0);
      execute(NULL);
      _exit(1);
    }
    while (shared->locked == 0) usleep(1000);
    for (int i = by_other ? 2 : 0; i < (by_other ? 3 : 2); ++i) results[i] = lock(&shared->mutexes[i]);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
  }
  printf("waited: %d, came later: %d, another thread's: %d\n", results[0], results[1], results[2]);
  return 0;
}
