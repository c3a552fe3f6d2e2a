// Large writes to standard output by several threads, without an agreement, from buffers that change right
// after and, of one thread, meanwhile. A replay prints the same in the same order.
// flags: -pthread
// native: status
#include "threads.h"

enum { kThreads = 3, kWrites = 6, kSize = 70000 };
static volatile char changing[kSize];
static atomic_int ends;
static void* print(void* argument) {
  const int me = (int)(intptr_t)argument;
  static char buffers[kThreads][kSize];
  for (int i = 0; i < kWrites; ++i) {
    memset(buffers[me], 'a' + me * kWrites + i, kSize);
    buffers[me][kSize - 1] = '\n';
    const char* from = me == 0 ? (const char*)changing : buffers[me];
    for (ssize_t done = 0, n; done < kSize; done += n) {
      n = write(1, from + done, (size_t)(kSize - done));
      CHECK(n > 0);
    }
  }
  return NULL;
}
static void* change(void* unused) {
  (void)unused;
  for (unsigned i = 0; !atomic_load(&ends); ++i) changing[i * 977 % kSize] = (char)('0' + i % 10);
  return NULL;
}

int main(void) {
  memset((char*)changing, '-', kSize);
  pthread_t threads[kThreads];
  const pthread_t changer = started(change, NULL);
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(print, (void*)i);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  atomic_store(&ends, 1);
  joined(changer);
  return 0;
}
