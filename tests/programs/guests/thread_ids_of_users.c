// seteuid and its like change all threads: the libc tells each by a signal, whatever it does, and waits for
// it.
// flags: -pthread
// native: output
#include "threads.h"

enum { kThreads = 4 };
static int pipes[2];
static atomic_int ends, here;
static void* work(void* argument) {
  const intptr_t kind = (intptr_t)argument;
  sigset_t all;
  sigfillset(&all);
  CHECK_OK(pthread_sigmask(SIG_SETMASK, &all, NULL));
  char byte = 0;
  atomic_fetch_add(&here, 1);
  if (kind == 0) CHECK(read(pipes[0], &byte, 1) == 1 && byte == 'x');  // started again, never EINTR
  while (!atomic_load(&ends)) {
    if (kind == 1) nap(1);
    if (kind == 2) sched_yield();
  }
  return NULL;
}

int main(void) {
  CHECK(pipe(pipes) == 0);
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  while (atomic_load(&here) < kThreads) sched_yield();
  for (int i = 0; i < 5; ++i) {
    CHECK(seteuid(geteuid()) == 0 && setegid(getegid()) == 0);
    CHECK(setresuid(-1, -1, -1) == 0 && setreuid(getuid(), geteuid()) == 0);
    CHECK(setgid(getgid()) == 0);
  }
  atomic_store(&ends, 1);
  CHECK(write(pipes[1], "x", 1) == 1);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  printf("changed\n");
  return 0;
}
