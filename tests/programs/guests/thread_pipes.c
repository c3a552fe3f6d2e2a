// A chain of threads with pipes between them, of which some are full and some empty at times.
// flags: -pthread
// native: output
#include <fcntl.h>

#include "threads.h"

enum { kStages = 4, kBytes = 300000 };
static int pipes[kStages + 1][2];
static void* stage(void* argument) {
  const intptr_t me = (intptr_t)argument;
  unsigned char buffer[5000];
  for (ssize_t n; (n = read(pipes[me][0], buffer, (size_t)(1000 + 1000 * me))) > 0;) {
    for (ssize_t i = 0; i < n; ++i) buffer[i] = (unsigned char)(buffer[i] * 3 + me);
    for (ssize_t done = 0, more; done < n; done += more) {
      more = write(pipes[me + 1][1], buffer + done, (size_t)(n - done));
      CHECK(more > 0);
    }
  }
  CHECK(close(pipes[me + 1][1]) == 0);
  return NULL;
}
static void* make(void* unused) {
  (void)unused;
  static unsigned char bytes[kBytes];
  for (int i = 0; i < kBytes; ++i) bytes[i] = (unsigned char)(i * 7 + i / 256);
  CHECK(write(pipes[0][1], bytes, kBytes) == kBytes);
  CHECK(close(pipes[0][1]) == 0);
  return NULL;
}

int main(void) {
  for (int i = 0; i <= kStages; ++i) CHECK(pipe(pipes[i]) == 0);
  CHECK(fcntl(pipes[1][1], F_SETPIPE_SZ, 4096) >= 4096);
  pthread_t threads[kStages + 1];
  for (intptr_t i = 0; i < kStages; ++i) threads[i] = started(stage, (void*)i);
  threads[kStages] = started(make, NULL);
  unsigned sum = 0, size = 0;
  unsigned char buffer[3000];
  for (ssize_t n; (n = read(pipes[kStages][0], buffer, sizeof buffer)) > 0; size += (unsigned)n)
    for (ssize_t i = 0; i < n; ++i) sum = sum * 31 + buffer[i];
  for (int i = 0; i <= kStages; ++i) joined(threads[i]);
  printf("%u bytes, %u\n", size, sum);
  return 0;
}
