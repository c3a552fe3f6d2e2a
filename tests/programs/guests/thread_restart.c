// Calls that wait in threads and are interrupted: begun again with SA_RESTART (read, futex, waits without
// end), ended with EINTR without, a sleep that goes on for the rest of its time.
// flags: -pthread
// native: output
#include <poll.h>
#include <sys/socket.h>

#include "threads.h"

enum { kKinds = 6 };
static int pipes[2], sockets[2];
static atomic_uint word;
static atomic_int tids[kKinds], handled, interrupted[kKinds];
static void handler(int signal) {
  (void)signal;
  atomic_fetch_add(&handled, 1);
}
static void* wait_for_it(void* argument) {
  const intptr_t kind = (intptr_t)argument;
  char byte;
  struct pollfd wanted = {.fd = sockets[0], .events = POLLIN};
  atomic_store(&tids[kind], gettid());
  for (long result = -1; result == -1;) {
    switch (kind) {
      case 0:
        result = read(pipes[0], &byte, 1);
        break;
      case 1:
        result = futex(&word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
        break;
      case 2:
        result = recv(sockets[0], &byte, 1, MSG_PEEK);
        break;
      case 3:
        result = poll(&wanted, 1, -1);
        break;  // never begun again
      case 4:
        result = nanosleep(&(struct timespec){30, 0}, NULL);
        break;
      default: {
        struct timespec until = from_now(CLOCK_MONOTONIC, 30000);
        result = futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &until, NULL, ~0u);
        break;
      }
    }
    if (result == -1 && errno == EAGAIN) break;  // the word was set before the wait
    if (result == -1) {
      CHECK(errno == EINTR);
      atomic_fetch_add(&interrupted[kind], 1);
      if (kind == 4 && atomic_load(&word)) break;
    }
  }
  return NULL;
}

int main(void) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  action.sa_flags = 0;
  CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
  CHECK(pipe(pipes) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
  pthread_t threads[kKinds];
  for (intptr_t kind = 0; kind < kKinds; ++kind) threads[kind] = started(wait_for_it, (void*)kind);
  for (int kind = 0; kind < kKinds; ++kind) until_asleep(until_set(&tids[kind]));
  for (int i = 0; i < 4; ++i)
    for (int kind = 0; kind < kKinds; ++kind) {
      const int before = atomic_load(&handled);
      CHECK_OK(pthread_kill(threads[kind], SIGUSR1));
      while (atomic_load(&handled) == before) sched_yield();
    }
  // What begins again is never told; a thread may have been caught before it waited, or after.
  CHECK(interrupted[0] == 0 && interrupted[1] == 0 && interrupted[2] == 0);
  CHECK(interrupted[3] <= 4 && interrupted[4] <= 4);
  for (int kind = 0; kind < 3; ++kind)
    while (atomic_load(&interrupted[kind]) == 0) {
      CHECK_OK(pthread_kill(threads[kind], SIGUSR2));
      nap(1);
    }
  atomic_store(&word, 1);
  for (int kind = 4; kind < kKinds; ++kind) {
    CHECK_OK(pthread_kill(threads[kind], SIGUSR2));
  }
  // The sleeper may not have slept when it came.
  while (pthread_tryjoin_np(threads[4], NULL) == EBUSY) pthread_kill(threads[4], SIGUSR2), nap(1);
  CHECK(write(pipes[1], "x", 1) == 1 && send(sockets[1], "x", 1, 0) == 1);
  for (int kind = 0; kind < kKinds; ++kind)
    if (kind != 4) {
      if (kind == 1 || kind == 5) futex(&word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
      joined(threads[kind]);
    }
  printf("begun again\n");
  return 0;
}
