// Processors that a thread may run on: set for another and for oneself, and asked.
// flags: -pthread
// native: output
#include <stdint.h>
#include <sys/wait.h>

#include "threads.h"

static atomic_int ends, tid;
static void* beside(void* unused) {
  (void)unused;
  atomic_store(&tid, gettid());
  while (!atomic_load(&ends)) nap(1);
  return NULL;
}

// Threads that hand a mutex to each other are kept on one processor by the recorder: the guest must not see
// that.
static cpu_set_t all_allowed;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int turn;
static int all_in(const char* file) {
  char line[4096], want[4096] = "";
  FILE* const f = fopen(file, "r");
  CHECK(f != NULL);
  while (fgets(line, sizeof line, f))
    if (sscanf(line, "Cpus_allowed_list: %s", want) == 1) break;
  fclose(f);
  int count = 0;
  for (char* at = want; *at != '\0';) {
    const long first = strtol(at, &at, 10), last = *at == '-' ? strtol(at + 1, &at, 10) : first;
    count += (int)(last - first) + 1;
    if (*at == ',') ++at;
  }
  return count == CPU_COUNT(&all_allowed);
}
static int may_run_everywhere(pid_t thread) {
  cpu_set_t got;
  return sched_getaffinity(thread, sizeof got, &got) == 0 && CPU_EQUAL(&got, &all_allowed);
}
static void* asks(void* unused) {
  (void)unused;
  return (void*)(intptr_t)may_run_everywhere(0);
}
static void* hands_on(void* number) {
  const int mine = (int)(intptr_t)number;
  static atomic_int tids[2];
  atomic_store(&tids[mine], gettid());
  for (int i = 0; i < 200; ++i) {
    pthread_mutex_lock(&mutex);
    while (turn != mine) pthread_cond_wait(&changed, &mutex);
    turn = !mine;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
    if (i == 50 + mine) CHECK(may_run_everywhere(0) && may_run_everywhere(tids[!mine]));
    if (i == 100 + mine) CHECK(all_in("/proc/thread-self/status"));
    if (i == 120 + mine) CHECK(joined(started(asks, NULL)) != NULL);
    if (i >= 150 && i < 158) {
      const pid_t child = fork();
      if (child == 0) _exit(may_run_everywhere(0) ? 7 : 8);
      int status;
      CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    }
  }
  return NULL;
}
static void hand_a_mutex_around(void) {
  const pthread_t one = started(hands_on, (void*)0), other = started(hands_on, (void*)1);
  joined(one);
  joined(other);
  CHECK(may_run_everywhere(0));
}

int main(void) {
  cpu_set_t all, one, got;
  CHECK(sched_getaffinity(0, sizeof all, &all) == 0 && CPU_COUNT(&all) > 0);
  all_allowed = all;
  hand_a_mutex_around();
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
