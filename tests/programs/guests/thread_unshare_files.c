// A thread that wants descriptors of its own: refused by name.
// flags: -pthread
// expect: exit 69
// says: unshare (descriptors of a thread's own)
#include "threads.h"

static void* has_own(void* unused) {
  (void)unused;
  CHECK(unshare(CLONE_FILES) == 0 && close(0) == 0);
  return NULL;
}

int main(void) {
  joined(started(has_own, NULL));
  CHECK(lseek(0, 0, SEEK_CUR) == 0);
  return 0;
}
