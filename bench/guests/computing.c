// Threads that compute beside each other and make no calls. args: threads rounds, of some 0.1 ms
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { kMost = 64 };
static long rounds;

static void* compute(void* number) {
  unsigned long x = (unsigned long)number + 1;
  for (long i = rounds * 40000; i > 0; --i) {
    x = x * 6364136223846793005UL + 1442695040888963407UL;
    if ((x >> 60) == 3) x ^= (unsigned long)i;
  }
  return (void*)x;
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const long threads = atol(argv[1]);
  rounds = atol(argv[2]);
  if (threads < 1 || threads > kMost) return 2;
  pthread_t ids[kMost];
  unsigned long sum = 0;
  for (long i = 0; i < threads; ++i)
    if (pthread_create(&ids[i], NULL, compute, (void*)i) != 0) return 1;
  for (long i = 0; i < threads; ++i) {
    void* result = NULL;
    pthread_join(ids[i], &result);
    sum += (unsigned long)result;
  }
  printf("%lu\n", sum);
  return 0;
}
