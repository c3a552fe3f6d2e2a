// exit(2) of the first thread, then of the other one: the process has the status of the last one (Linux 6.0
// and later).
// flags: -pthread
// expect: exit 3
// native: output
#include "threads.h"

static atomic_uint there = 1;
static void* last(void* unused) {
  (void)unused;
  while (atomic_load(&there)) futex(&there, FUTEX_WAIT, 1, NULL, NULL, 0);
  nap(20);  // the kernel says so a little before it is gone
  CHECK(write(STDOUT_FILENO, "last\n", 5) == 5);
  syscall(SYS_exit, 3);
  return NULL;
}

int main(void) {
  started(last, NULL);
  CHECK(syscall(SYS_set_tid_address, &there) == gettid());
  syscall(SYS_exit, 7);
  return 1;
}
