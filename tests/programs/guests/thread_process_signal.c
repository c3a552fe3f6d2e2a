// Signals to the process are taken by the one thread that doesn't block them: while it computes, sleeps or
// waits; what all block is taken by whoever unblocks it first.
// flags: -pthread
// native: output
#include "threads.h"

static atomic_int taker, handled, ends, blocked;
static void handler(int signal) {
  (void)signal;
  CHECK(gettid() == atomic_load(&taker));
  atomic_fetch_add(&handled, 1);
}
static void unblock(int how) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK_OK(pthread_sigmask(how, &set, NULL));
}
static void* compute(void* unused) {
  (void)unused;
  unsigned state = 1;
  atomic_store(&taker, gettid());
  unblock(SIG_UNBLOCK);
  while (!atomic_load(&ends)) next_random(&state);
  return NULL;
}
static void* sleep_long(void* unused) {
  (void)unused;
  atomic_store(&taker, gettid());
  unblock(SIG_UNBLOCK);
  while (!atomic_load(&ends)) {
    const struct timespec long_time = {0, 50000000};
    nanosleep(&long_time, NULL);
  }
  return NULL;
}
static void* wait_on_futex(void* unused) {
  (void)unused;
  static atomic_uint word;
  atomic_store(&taker, gettid());
  unblock(SIG_UNBLOCK);
  while (!atomic_load(&ends)) {
    const struct timespec long_time = {0, 50000000};
    futex(&word, FUTEX_WAIT_PRIVATE, 0, &long_time, NULL, 0);
  }
  return NULL;
}
static void* stay_blocked(void* unused) {
  (void)unused;
  while (!atomic_load(&blocked)) nap(1);
  return NULL;
}

int main(void) {
  const struct sigaction action = {.sa_handler = handler};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  unblock(SIG_BLOCK);
  const pthread_t blocking = started(stay_blocked, NULL);
  void* (*const kinds[])(void*) = {compute, sleep_long, wait_on_futex};
  for (int i = 0; i < 3; ++i) {
    atomic_store(&ends, 0), atomic_store(&taker, 0);
    const pthread_t thread = started(kinds[i], NULL);
    until_set(&taker);
    for (int n = 0; n < 5; ++n) {
      const int before = atomic_load(&handled);
      CHECK(kill(getpid(), SIGUSR1) == 0);
      while (atomic_load(&handled) == before) nap(1);
    }
    atomic_store(&ends, 1);
    joined(thread);
  }
  // Pending for the process.
  CHECK(kill(getpid(), SIGUSR1) == 0);
  atomic_store(&ends, 1);
  joined(started(compute, NULL));
  atomic_store(&blocked, 1);
  joined(blocking);
  printf("handled %d\n", atomic_load(&handled));
  return 0;
}
