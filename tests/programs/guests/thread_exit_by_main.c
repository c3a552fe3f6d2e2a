// exit() of the first thread ends the others wherever they are: computing, asleep, at a futex, in a read, a
// poll, with signals blocked, spinning with sched_yield.
// flags: -pthread
// expect: exit 9
// native: output
#include <poll.h>

#include "threads.h"

enum { kKinds = 7 };
static int pipes[2];
static atomic_int tids[kKinds];

static void* stay(void* argument) {
  const intptr_t kind = (intptr_t)argument;
  static atomic_uint word;
  struct pollfd wanted = {.fd = pipes[0], .events = POLLIN};
  char byte;
  sigset_t all;
  sigfillset(&all);
  if (kind % 2) CHECK_OK(pthread_sigmask(SIG_SETMASK, &all, NULL));
  atomic_store(&tids[kind], gettid());
  for (volatile unsigned n = 0;; ++n) {
    switch (kind) {
      case 1:
        sleep(100);
        break;
      case 2:
        futex(&word, FUTEX_WAIT, 0, NULL, NULL, 0);
        break;
      case 3:
        CHECK(read(pipes[0], &byte, 1) < 0);
        break;
      case 4:
        CHECK(poll(&wanted, 1, -1) < 0);
        break;
      case 5:
        sched_yield();
        break;
      case 6:
        sigsuspend(&all);
        break;
      default:
        break;
    }
  }
}
static void at_exit(void) { printf("at exit\n"); }

int main(void) {
  CHECK(pipe(pipes) == 0 && atexit(at_exit) == 0);
  for (intptr_t kind = 0; kind < kKinds; ++kind) started(stay, (void*)kind);
  for (int kind = 0; kind < kKinds; ++kind) {
    const int tid = until_set(&tids[kind]);
    if (kind != 0 && kind != 5) until_asleep(tid);
  }
  exit(9);
}
