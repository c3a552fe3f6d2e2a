// Threads of a static program: locks, conditions, thread-local storage, cancellation, signals.
// flags: -static -pthread
// native: output
#include "threads.h"

enum { kThreads = 3, kRounds = 200 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int turn;
static __thread volatile int own = 1, signals;
static void handler(int signal) {
  (void)signal;
  ++signals;
}
static void* work(void* argument) {
  const int me = (int)(intptr_t)argument;
  for (int i = 0; i < kRounds; ++i) {
    CHECK_OK(pthread_mutex_lock(&mutex));
    while (turn % kThreads != me) CHECK_OK(pthread_cond_wait(&condition, &mutex));
    ++turn, own += me;
    CHECK_OK(pthread_cond_broadcast(&condition));
    CHECK_OK(pthread_mutex_unlock(&mutex));
  }
  CHECK_OK(pthread_kill(pthread_self(), SIGUSR1));
  CHECK(signals == 1);
  return (void*)(intptr_t)own;
}
static void* stay(void* unused) {
  (void)unused;
  for (;;) pause();
  return NULL;
}

int main(void) {
  const struct sigaction action = {.sa_handler = handler};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  for (int i = 0; i < kThreads; ++i) printf("%ld\n", (long)joined(threads[i]));
  const pthread_t thread = started(stay, NULL);
  CHECK_OK(pthread_cancel(thread));
  CHECK(joined(thread) == PTHREAD_CANCELED && own == 1);
  printf("%d turns\n", turn);
  return 0;
}
