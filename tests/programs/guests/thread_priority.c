// Priorities are each thread's own, set by its number; new threads have those of the one that made them.
// flags: -pthread
// native: output
#include <sys/resource.h>

#include "threads.h"

static pthread_barrier_t barrier;
static atomic_int tid;
static int nice_of(int thread) {
  errno = 0;
  const int value = getpriority(PRIO_PROCESS, (id_t)thread);
  CHECK(errno == 0);
  return value;
}
static void* inherit(void* unused) {
  (void)unused;
  return (void*)(intptr_t)nice_of(0);
}
static void* work(void* first) {
  atomic_store(&tid, gettid());
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  CHECK(nice_of(0) == *(int*)first + 3 && nice(1) == *(int*)first + 4);
  CHECK((intptr_t)joined(started(inherit, NULL)) == *(int*)first + 4);
  int policy;
  struct sched_param parameters;
  CHECK_OK(pthread_getschedparam(pthread_self(), &policy, &parameters));
  CHECK(policy == SCHED_OTHER && parameters.sched_priority == 0);
  parameters.sched_priority = 0;
  CHECK_OK(pthread_setschedparam(pthread_self(), SCHED_BATCH, &parameters));
  CHECK(sched_getscheduler(0) == SCHED_BATCH && sched_getscheduler(getpid()) == SCHED_OTHER);
  return NULL;
}

int main(void) {
  int first = nice_of(0);
  CHECK_OK(pthread_barrier_init(&barrier, NULL, 2));
  const pthread_t thread = started(work, &first);
  pthread_barrier_wait(&barrier);
  CHECK(setpriority(PRIO_PROCESS, (id_t)tid, first + 3) == 0);
  CHECK(nice_of(tid) == first + 3 && nice_of(0) == first && nice_of(getpid()) == first);
  pthread_barrier_wait(&barrier);
  joined(thread);
  CHECK(nice_of(0) == first);
  printf("one's own\n");
  return 0;
}
