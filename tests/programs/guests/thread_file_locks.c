// Locks on files that threads wait for: of open files (flock, F_OFD_SETLKW), which hold between threads.
// flags: -pthread
// native: output
#include <fcntl.h>
#include <sys/file.h>

#include "threads.h"

enum { kThreads = 3, kRounds = 30 };
static volatile int counts[2];
static void lock_it(int fd, short type) {
  struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_len = 10};
  CHECK(fcntl(fd, F_OFD_SETLKW, &lock) == 0);
}
static void* work(void* unused) {
  (void)unused;
  const int fd = open("locked", O_RDWR | O_CREAT, 0600);
  CHECK(fd >= 0);
  for (int i = 0; i < kRounds; ++i) {
    lock_it(fd, F_WRLCK);
    const int first = counts[0];
    if (i % 10 == 0) nap(1);
    counts[0] = first + 1;
    lock_it(fd, F_UNLCK);
    CHECK(flock(fd, LOCK_EX) == 0);
    const int second = counts[1];
    if (i % 10 == 5) nap(1);
    counts[1] = second + 1;
    CHECK(flock(fd, LOCK_UN) == 0);
  }
  CHECK(close(fd) == 0);
  return NULL;
}

int main(void) {
  pthread_t threads[kThreads];
  for (int i = 0; i < kThreads; ++i) threads[i] = started(work, NULL);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  printf("%d %d\n", counts[0], counts[1]);
  return 0;
}
