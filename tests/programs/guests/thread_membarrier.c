// membarrier: what there is, and the ones that programs use.
// flags: -pthread
// native: status
#include <linux/membarrier.h>

#include "threads.h"

static volatile int values[2];
static atomic_int ends;
static void* look(void* unused) {
  (void)unused;
  while (!atomic_load(&ends)) {
    const int second = values[1];
    asm volatile("" ::: "memory");
    CHECK(values[0] >= second);
  }
  return NULL;
}

int main(void) {
  const pthread_t thread = started(look, NULL);
  const long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
  CHECK(commands >= 0 || errno == ENOSYS);
  if (commands >= 0) {
    CHECK_ERRNO(syscall(SYS_membarrier, 1 << 30, 0, 0), EINVAL);
    if (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED)
      CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);
    for (int i = 0; i < 100; ++i) {
      values[0] = i;
      if (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED)
        CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0);
      values[1] = i;
    }
    if (commands & MEMBARRIER_CMD_GLOBAL) CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0);
  }
  atomic_store(&ends, 1);
  joined(thread);
  printf("%#lx\n", commands);
  return 0;
}
