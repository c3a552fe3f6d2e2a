// A thread forks while others are in calls that wait and die there, or dies itself right after; its child
// goes on, with threads of its own.
// flags: -pthread
// native: output
#include <poll.h>
#include <sys/wait.h>

#include "threads.h"

enum { kRounds = 6, kWaiting = 3 };
static int hold[2];
static atomic_int tids[kWaiting], forked;

static void* waiting(void* number) {
  char byte;
  const int which = (int)(intptr_t)number;
  atomic_store(&tids[which], gettid());
  for (;;) {
    if (which == 0) CHECK(read(hold[0], &byte, 1) != 0);
    if (which == 1) poll(&(struct pollfd){hold[0], POLLIN, 0}, 1, -1);
    if (which == 2) nap(1000000);
  }
  return NULL;
}

static void* square(void* number) { return (void*)((intptr_t)number * (intptr_t)number); }

static int child_main(int round) {
  CHECK(getpid() == gettid());
  for (int i = 0; i < kWaiting; ++i)
    CHECK_ERRNO(syscall(SYS_tgkill, getpid(), atomic_load(&tids[i]), 0), ESRCH);
  intptr_t sum = 0;
  for (intptr_t i = 0; i < 3; ++i) sum += (intptr_t)joined(started(square, (void*)(i + round)));
  return (int)sum;
}

static void* fork_and_die(void* round) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) _exit(child_main((int)(intptr_t)round));
  atomic_store(&forked, child);
  return NULL;
}

int main(void) {
  CHECK(pipe(hold) == 0);
  for (int round = 0; round < kRounds; ++round) {
    pthread_t threads[kWaiting];
    for (int i = 0; i < kWaiting; ++i) {
      atomic_store(&tids[i], 0);
      threads[i] = started(waiting, (void*)(intptr_t)i);
    }
    for (int i = 0; i < kWaiting; ++i) {
      const int tid = until_set(&tids[i]);
      if (round % 2 == 0) until_asleep(tid);
    }
    atomic_store(&forked, 0);
    const pthread_t forks = started(fork_and_die, (void*)(intptr_t)round);
    // They die as it forks.
    for (int i = 0; i < kWaiting; ++i) CHECK_OK(pthread_cancel(threads[i]));
    const int child = until_set(&forked);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    printf("round %d: %d\n", round, WEXITSTATUS(status));
    joined(forks);
    for (int i = 0; i < kWaiting; ++i) CHECK(joined(threads[i]) == PTHREAD_CANCELED);
  }
  return 0;
}
