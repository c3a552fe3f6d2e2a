// A read waits with a buffer that other threads read and write meanwhile: what it brings is written when it
// comes, and no byte more.
// flags: -pthread
// native: output
#include <sys/uio.h>

#include "threads.h"

static int pipes[2];
static atomic_int tid, ends;
static volatile unsigned char buffer[8192];
static volatile int result;

static void* read_it(void* vectors) {
  atomic_store(&tid, gettid());
  if (vectors) {
    struct iovec parts[2] = {{(void*)(buffer + 1000), 50}, {(void*)buffer, 1000}};
    result = (int)readv(pipes[0], parts, 2);
  } else {
    result = (int)read(pipes[0], (void*)buffer, sizeof buffer);
  }
  return NULL;
}
// Counts up at a place that the read does not reach.
static void* count(void* unused) {
  (void)unused;
  unsigned n = 0;
  while (!atomic_load(&ends)) {
    buffer[6000] = (unsigned char)++n;
    CHECK(buffer[6000] == (unsigned char)n);
  }
  return NULL;
}

int main(void) {
  CHECK(pipe(pipes) == 0);
  const pthread_t counting = started(count, NULL);
  for (intptr_t round = 0; round < 6; ++round) {
    memset((void*)buffer, 1, 6000);
    atomic_store(&tid, 0);
    const pthread_t reading = started(read_it, (void*)(round % 2));
    until_asleep(until_set(&tid));
    for (int i = 0; i < 4000; ++i) CHECK(buffer[i] == 1);  // still as it was
    memset((void*)buffer, 2, 4000);
    char text[100];
    memset(text, 3, sizeof text);
    CHECK(write(pipes[1], text, 100) == 100);
    joined(reading);
    CHECK(result == 100);
    int counts[4] = {0};
    for (int i = 0; i < 5000; ++i) ++counts[buffer[i]];
    CHECK(counts[3] == 100 && counts[2] == 3900 && counts[1] == 1000);
    const int first = round % 2 ? 1000 : 0, second = round % 2 ? 0 : 50;
    for (int i = 0; i < 50; ++i) CHECK(buffer[first + i] == 3 && buffer[second + i] == 3);
    buffer[0] = 0;
  }
  atomic_store(&ends, 1);
  joined(counting);
  printf("only what was read\n");
  return 0;
}
