// flags: -pthread -mavx2 -O2
// record: --cpu v3
// lacked-by: soft --cpu v3
// Threads on the v3 model: all of YMM0 to YMM15 are each thread's own, also while signals interrupt it.
// native: output
#include <immintrin.h>
#include <sys/time.h>

#include "threads.h"

enum { kThreads = 3, kRounds = 30000 };
static volatile int ticks;
static void handler(int signal) {
  (void)signal;
  ++ticks;
  asm volatile("vpxor %%ymm0, %%ymm0, %%ymm0\n\tvpxor %%ymm9, %%ymm9, %%ymm9" ::: "xmm0", "xmm9");
}
static void* work(void* argument) {
  const long me = (long)(intptr_t)argument;
  __m256i values[12];
  for (int i = 0; i < 12; ++i) values[i] = _mm256_set_epi64x(me * 4 + 3, me * 4 + 2, me * 4 + 1, i);
  for (int round = 0; round < kRounds; ++round) {
    for (int i = 0; i < 12; ++i) {
      values[i] = _mm256_add_epi64(values[i], _mm256_set1_epi64x(round & 7));
      asm volatile("" : "+x"(values[i]));
    }
    if (round % 10000 == 0) sched_yield();
  }
  unsigned long sum = 0;
  for (int i = 0; i < 12; ++i)
    for (int lane = 0; lane < 4; ++lane) sum = sum * 31 + ((unsigned long*)&values[i])[lane];
  return (void*)sum;
}

int main(void) {
  const struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
  CHECK(sigaction(SIGALRM, &action, NULL) == 0);
  const struct itimerval every = {{0, 1000}, {0, 1000}};
  CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  for (int i = 0; i < kThreads; ++i) printf("%lx\n", (unsigned long)joined(threads[i]));
  return 0;
}
