// A thread can't be recorded: the program is not told so, for it would do its work by half and say that it is
// done. What is asked without anything being wanted is no reason to end: clone3 to find out whether it
// exists, combinations that the kernel refuses, calls that a kernel may lack.
// flags: -pthread
// expect: exit 69
// expect-output: probes done
// says: clone3 (a new thread)
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>

#include "check.h"

static void* never(void* argument) { return argument; }

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
  printf("probes done\n");
  fflush(stdout);
  pthread_t thread;
  pthread_create(&thread, NULL, never, NULL);
  printf("after\n");
  return 0;
}
