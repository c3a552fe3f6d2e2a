// Two threads that take turns by eventfds that wait, one of them counting as a semaphore.
// flags: -pthread
// native: output
#include <sys/eventfd.h>

#include "threads.h"

enum { kTurns = 150 };
static int fds[2];
static void* answer(void* unused) {
  (void)unused;
  uint64_t number, sum = 0;
  for (int i = 0; i < kTurns; ++i) {
    CHECK(read(fds[0], &number, sizeof number) == sizeof number);
    sum += number;
    number = 2;
    CHECK(write(fds[1], &number, sizeof number) == sizeof number);
  }
  return (void*)sum;
}

int main(void) {
  fds[0] = eventfd(0, 0), fds[1] = eventfd(0, EFD_SEMAPHORE);
  CHECK(fds[0] >= 0 && fds[1] >= 0);
  const pthread_t thread = started(answer, NULL);
  for (int i = 0; i < kTurns; ++i) {
    uint64_t number = (uint64_t)i + 1;
    CHECK(write(fds[0], &number, sizeof number) == sizeof number);
    for (int n = 0; n < 2; ++n) CHECK(read(fds[1], &number, sizeof number) == sizeof number && number == 1);
  }
  printf("%lu\n", (unsigned long)joined(thread));
  return 0;
}
