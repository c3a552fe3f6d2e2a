// Threads that come by the same sites, and checks that count them all in a ghost variable.
#include <pthread.h>
#include <stdint.h>
#include <unistd.h>

#include "vassert.h"

enum { threads = 3, rounds = 20 };

VASSERT_GHOST static int all_hits, last;

__attribute__((noinline)) static void visit(int id, volatile int* round) {
  VASSERT(id != 2 || *round != 7);
  VASSERT_BLOCK {
    ++all_hits;
    if (all_hits == threads * rounds) VASSERT_FAIL("all of them, the last in %d after %d", id, last);
    last = id;
  }
}

static void* work(void* argument) {
  const int id = (int)(intptr_t)argument;
  for (volatile int round = 0; round < rounds; ++round) {
    visit(id, &round);
    if (round % 4 == id % 4) getppid();
  }
  return argument;
}

int main(void) {
  pthread_t all[threads];
  for (intptr_t i = 0; i < threads; ++i) pthread_create(&all[i], 0, work, (void*)(i + 1));
  for (int i = 0; i < threads; ++i) pthread_join(all[i], 0);
  return 0;
}
