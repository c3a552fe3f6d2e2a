// What clone and clone3 refuse while there are threads.
// flags: -pthread
// native: output
#include <linux/sched.h>

#include "threads.h"

static atomic_int ends;
static void* beside(void* unused) {
  (void)unused;
  while (!atomic_load(&ends)) nap(1);
  return NULL;
}

int main(void) {
  const pthread_t thread = started(beside, NULL);
  CHECK_ERRNO(syscall(SYS_clone, CLONE_THREAD | CLONE_VM, 0, 0, 0, 0), EINVAL);
  CHECK_ERRNO(syscall(SYS_clone, CLONE_THREAD | CLONE_SIGHAND, 0, 0, 0, 0), EINVAL);
  CHECK_ERRNO(syscall(SYS_clone, CLONE_FS | CLONE_NEWNS, 0, 0, 0, 0), EINVAL);
  static char stack[16384];
  struct clone_args arguments = {.flags = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD, .exit_signal = SIGCHLD};
  CHECK_ERRNO(syscall(SYS_clone3, &arguments, sizeof arguments), EINVAL);
  arguments.exit_signal = 0, arguments.stack = (uintptr_t)stack;  // a stack without a size
  CHECK_ERRNO(syscall(SYS_clone3, &arguments, sizeof arguments), EINVAL);
  arguments.stack = 0, arguments.stack_size = sizeof stack;
  CHECK_ERRNO(syscall(SYS_clone3, &arguments, sizeof arguments), EINVAL);
  CHECK_ERRNO(syscall(SYS_clone3, &arguments, 8), EINVAL);
  CHECK_ERRNO(syscall(SYS_clone3, NULL, sizeof arguments), EFAULT);
  atomic_store(&ends, 1);
  joined(thread);
  printf("refused\n");
  return 0;
}
