// seccomp filters are a thread's own, inherited by those that it makes, and given to all where that is asked.
// flags: -pthread
// native: output
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

#include "threads.h"

static pthread_barrier_t barrier;
// `number` fails with `error` from now on.
static long refuse(int number, int error, unsigned flags) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog program = {4, code};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}
static void* inherits(void* unused) {
  (void)unused;
  CHECK_ERRNO(syscall(SYS_getppid), 33);
  return NULL;
}
static void* refuses(void* unused) {
  (void)unused;
  CHECK(refuse(SYS_getppid, 33, 0) == 0);
  CHECK_ERRNO(syscall(SYS_getppid), 33);
  joined(started(inherits, NULL));
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  CHECK(getpgrp() > 0);  // not to be given to those that have others
  pthread_barrier_wait(&barrier);
  return NULL;
}
static void* gets(void* unused) {
  (void)unused;
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  CHECK_ERRNO(syscall(SYS_getsid, 0), 34);
  return NULL;
}

int main(void) {
  CHECK_OK(pthread_barrier_init(&barrier, NULL, 2));
  const pthread_t first = started(refuses, NULL);
  pthread_barrier_wait(&barrier);
  CHECK(getppid() > 0);
  const long culprit = refuse(SYS_getpgrp, 35, SECCOMP_FILTER_FLAG_TSYNC);
  CHECK(culprit > 0 && culprit != getpid());  // the first thread's tid
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  joined(first);
  const pthread_t second = started(gets, NULL);
  pthread_barrier_wait(&barrier);
  long result;
  // The one that has just ended may be in the kernel's list for a moment.
  while ((result = refuse(SYS_getsid, 34, SECCOMP_FILTER_FLAG_TSYNC)) > 0) sched_yield();
  CHECK(result == 0);
  pthread_barrier_wait(&barrier);
  joined(second);
  CHECK_ERRNO(syscall(SYS_getsid, 0), 34);
  printf("refused\n");
  return 0;
}
