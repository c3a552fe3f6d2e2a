// Threads that hand a mutex around in turn: each waits for its number. args: threads count
// Prints the microseconds that each hand-over took.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { kMost = 64 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turns[kMost];
static long handed, count, threads;

static void* take_turns(void* number) {
  const long mine = (long)number;
  pthread_mutex_lock(&mutex);
  for (;;) {
    while (handed < count && handed % threads != mine) pthread_cond_wait(&turns[mine], &mutex);
    const int over = handed >= count;
    if (!over) ++handed;
    pthread_cond_signal(&turns[(mine + 1) % threads]);
    if (over) break;
  }
  pthread_mutex_unlock(&mutex);
  return NULL;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  threads = atol(argv[1]);
  count = atol(argv[2]);
  if (threads < 1 || threads > kMost) return 2;
  pthread_t ids[kMost];
  for (long i = 0; i < threads; ++i) pthread_cond_init(&turns[i], NULL);
  const double begin = now();
  for (long i = 0; i < threads; ++i)
    if (pthread_create(&ids[i], NULL, take_turns, (void*)i) != 0) return 1;
  for (long i = 0; i < threads; ++i) pthread_join(ids[i], NULL);
  printf("%.3f\n", (now() - begin) / (double)count);
  return 0;
}
