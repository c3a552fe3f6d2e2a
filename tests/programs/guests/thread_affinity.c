// Processors that a thread may run on: set for another and for oneself, and asked.
// flags: -pthread
// native: output
#include "threads.h"

static atomic_int ends, tid;
static void* beside(void* unused) {
  (void)unused;
  atomic_store(&tid, gettid());
  while (!atomic_load(&ends)) nap(1);
  return NULL;
}

int main(void) {
  cpu_set_t all, one, got;
  CHECK(sched_getaffinity(0, sizeof all, &all) == 0 && CPU_COUNT(&all) > 0);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &all)) ++cpu;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  const pthread_t thread = started(beside, NULL);
  until_set(&tid);
  CHECK_OK(pthread_setaffinity_np(thread, sizeof one, &one));
  CHECK_OK(pthread_getaffinity_np(thread, sizeof got, &got));
  CHECK(CPU_EQUAL(&got, &one));
  CHECK(sched_getaffinity(0, sizeof got, &got) == 0 && CPU_EQUAL(&got, &all));
  CHECK(sched_setaffinity(tid, sizeof all, &all) == 0);
  CHECK_OK(pthread_getaffinity_np(thread, sizeof got, &got));
  CHECK(CPU_EQUAL(&got, &all));
  CHECK(sched_setaffinity(0, sizeof one, &one) == 0 && sched_getcpu() == cpu);
  CHECK(sched_getaffinity(tid, sizeof got, &got) == 0 && CPU_EQUAL(&got, &all));
  CPU_ZERO(&one);
  CHECK_ERRNO(sched_setaffinity(tid, sizeof one, &one), EINVAL);
  CHECK_ERRNO(sched_getaffinity(-1, sizeof got, &got), ESRCH);
  atomic_store(&ends, 1);
  joined(thread);
  printf("processors\n");
  return 0;
}
