// What is asked without anything being wanted: clone3 to find out whether it exists, combinations that the
// kernel refuses, calls that a kernel may lack. A thread that comes after it is made.
// flags: -pthread
#include <linux/sched.h>
#include <sys/syscall.h>

#include "threads.h"

static void* square(void* number) { return (void*)((intptr_t)number * (intptr_t)number); }

int main(void) {
  struct clone_args arguments = {.flags = CLONE_THREAD};
  CHECK_ERRNO(syscall(SYS_clone3, NULL, 0), EINVAL);
  CHECK_ERRNO(syscall(SYS_clone3, &arguments, 8), EINVAL);
  CHECK_ERRNO(syscall(SYS_clone3, &arguments, 1 << 20), E2BIG);
  CHECK_ERRNO(syscall(SYS_clone3, NULL, sizeof arguments), EFAULT);
  CHECK_ERRNO(syscall(SYS_clone3, &arguments, sizeof arguments), EINVAL);
  CHECK_ERRNO(syscall(SYS_clone, CLONE_THREAD | CLONE_SIGHAND, 0, 0, 0, 0), EINVAL);
  CHECK(syscall(SYS_io_uring_setup, 1, NULL) == -1 && syscall(SYS_landlock_create_ruleset, NULL, 0, 1) == -1);
  CHECK(syscall(SYS_seccomp, 2, 0, NULL) == -1 && syscall(SYS_bpf, 0, NULL, 0) == -1);
  CHECK(syscall(SYS_unshare, CLONE_FS | CLONE_FILES) == 0 && syscall(SYS_unshare, 0) == 0);
  CHECK_ERRNO(syscall(SYS_unshare, 1), EINVAL);
  printf("%ld\n", (long)joined(started(square, (void*)12)));
  return 0;
}
