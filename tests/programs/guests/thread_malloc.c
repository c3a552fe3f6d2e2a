// Memory that one thread allocates, another checks and a third gives back; arenas come and go with threads.
// flags: -pthread
// native: output
#include "threads.h"

enum { kThreads = 4, kSlots = 24, kRounds = 400 };
struct block {
  unsigned size, seed;
  unsigned char bytes[];
};
static struct block* slots[kSlots];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static atomic_int checked;
static void check_and_free(struct block* block) {
  if (!block) return;
  unsigned state = block->seed;
  for (unsigned i = 0; i < block->size; i += 16) CHECK(block->bytes[i] == (unsigned char)next_random(&state));
  atomic_fetch_add(&checked, 1);
  free(block);
}
static void* work(void* argument) {
  unsigned random = (unsigned)(uintptr_t)argument;
  for (int i = 0; i < kRounds; ++i) {
    const unsigned size = next_random(&random) % (i % 50 == 0 ? 300000 : 2000);
    struct block* block = malloc(sizeof *block + size);
    CHECK(block);
    block->size = size, block->seed = next_random(&random);
    unsigned state = block->seed;
    for (unsigned n = 0; n < size; n += 16) block->bytes[n] = (unsigned char)next_random(&state);
    if (i % 7 == 0) block = realloc(block, sizeof *block + size + 1000);
    const unsigned slot = next_random(&random) % kSlots;
    CHECK_OK(pthread_mutex_lock(&mutex));
    struct block* old = slots[slot];
    slots[slot] = block;
    CHECK_OK(pthread_mutex_unlock(&mutex));
    check_and_free(old);
  }
  return NULL;
}

int main(void) {
  pthread_t threads[kThreads];
  for (int round = 0; round < 2; ++round) {
    for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)(i + 10 * round));
    for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  }
  for (int i = 0; i < kSlots; ++i) check_and_free(slots[i]);
  printf("%d\n", atomic_load(&checked));
  return 0;
}
