// A thread that a filter kills, one in strict mode, the first one: they end alone, with what the kernel does
// at a thread's end. The status is that of the last.
// flags: -pthread
// expect: exit 3
// native: output
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

#include "threads.h"

static void kill_at_getppid(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_THREAD),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog program = {4, code};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
}
static void* filtered(void* robust) {
  CHECK_OK(pthread_mutex_lock(robust));
  kill_at_getppid();
  syscall(SYS_getppid);
  CHECK(!"it goes on");
  return NULL;
}
static void* strict(void* unused) {
  (void)unused;
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
  syscall(SYS_getppid);
  _exit(99);
}
static atomic_uint there = 1;
static void* last(void* unused) {
  (void)unused;
  while (atomic_load(&there)) futex(&there, FUTEX_WAIT, 1, NULL, NULL, 0);
  nap(20);
  CHECK(write(STDOUT_FILENO, "last\n", 5) == 5);
  syscall(SYS_exit, 3);
  return NULL;
}

int main(void) {
  pthread_mutex_t mutex;
  pthread_mutexattr_t robust;
  CHECK_OK(pthread_mutexattr_init(&robust));
  CHECK_OK(pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST));
  CHECK_OK(pthread_mutex_init(&mutex, &robust));
  joined(started(filtered, &mutex));
  CHECK(pthread_mutex_lock(&mutex) == EOWNERDEAD);
  joined(started(strict, NULL));
  CHECK(write(STDOUT_FILENO, "two gone\n", 9) == 9);
  started(last, NULL);
  kill_at_getppid();
  CHECK(syscall(SYS_set_tid_address, &there) == gettid());
  syscall(SYS_getppid);
  return 1;
}
