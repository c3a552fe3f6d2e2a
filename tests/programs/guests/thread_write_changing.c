// A write that waits for room, of memory that another thread changes meanwhile: each byte that arrives is one
// that was there. The reader's sum differs from run to run.
// flags: -pthread
// native: status
#include <fcntl.h>

#include "threads.h"

enum { kSize = 400000 };
static int pipes[2];
static atomic_int tid;
static volatile unsigned char bytes[kSize];

static void* write_it(void* unused) {
  (void)unused;
  atomic_store(&tid, gettid());
  CHECK(write(pipes[1], (const void*)bytes, kSize) == kSize);
  close(pipes[1]);
  return NULL;
}
static void* change(void* unused) {
  (void)unused;
  for (int value = 1; value < 4; ++value) {
    for (int i = 0; i < kSize; i += 16) bytes[i] = (unsigned char)value;
    nap(1);
  }
  return NULL;
}

int main(void) {
  CHECK(pipe(pipes) == 0);
  const pthread_t writing = started(write_it, NULL);
  until_asleep(until_set(&tid));
  const pthread_t changing = started(change, NULL);
  static unsigned char got[kSize];
  int size = 0;
  for (ssize_t n; (n = read(pipes[0], got + size, 10000)) > 0;) {
    size += (int)n;
    if (size % 8 == 0) sched_yield();
  }
  CHECK(size == kSize);
  joined(writing), joined(changing);
  unsigned sum = 0;
  for (int i = 0; i < kSize; ++i) {
    CHECK(got[i] <= (i % 16 == 0 ? 3 : 0));
    sum += got[i] * (unsigned)i;
  }
  printf("%u\n", sum);
  return 0;
}
