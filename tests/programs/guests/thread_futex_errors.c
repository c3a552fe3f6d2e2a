// What the futex call refuses, with a second thread beside it.
// flags: -pthread
// native: output
#include <sys/mman.h>

#include "threads.h"

static atomic_int ends;
static void* beside(void* unused) {
  (void)unused;
  while (!atomic_load(&ends)) nap(1);
  return NULL;
}

int main(void) {
  static atomic_uint words[2];
  const pthread_t thread = started(beside, NULL);
  void* nowhere = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK_ERRNO(futex((atomic_uint*)((char*)words + 1), FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0), EINVAL);
  CHECK_ERRNO(futex((atomic_uint*)((char*)words + 2), FUTEX_WAKE, 1, NULL, NULL, 0), EINVAL);
  CHECK_ERRNO(futex((atomic_uint*)1, FUTEX_WAKE, 1, NULL, NULL, 0), EINVAL);
  CHECK_ERRNO(futex(nowhere, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0), EFAULT);
  CHECK_ERRNO(futex(nowhere, FUTEX_WAIT, 0, NULL, NULL, 0), EFAULT);
  CHECK_ERRNO(futex(NULL, FUTEX_WAKE, 1, NULL, NULL, 0), EFAULT);
  CHECK(futex(nowhere, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == 0);
  CHECK_ERRNO(futex(words, FUTEX_WAIT_PRIVATE, 0, (void*)8, NULL, 0), EFAULT);
  CHECK_ERRNO(futex(words, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void*)1, nowhere, 1), EAGAIN);
  CHECK_ERRNO(futex(words, FUTEX_REQUEUE_PRIVATE, (unsigned)-1, (void*)1, words + 1, 0), EINVAL);
  CHECK_ERRNO(futex(words, FUTEX_WAKE_OP_PRIVATE, 1, (void*)1, nowhere, 0), EFAULT);
  CHECK_ERRNO(futex(words, 99, 1, NULL, NULL, 0), ENOSYS);
  CHECK_ERRNO(futex(words, FUTEX_WAKE_PRIVATE | FUTEX_CLOCK_REALTIME, 1, NULL, NULL, 0), ENOSYS);
  atomic_store(&ends, 1);
  joined(thread);
  printf("refused\n");
  return 0;
}
