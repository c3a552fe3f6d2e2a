// Threads whose last acts fail: the word to clear and the robust list are nowhere, a stack is unmapped by its
// own thread before it ends.
// flags: -pthread -fno-stack-protector
// native: output
#include <sys/mman.h>

#include "threads.h"

static atomic_int tid;
static void* nowhere(void* unused) {
  (void)unused;
  CHECK(syscall(SYS_set_tid_address, (int*)8) == gettid());
  CHECK(syscall(SYS_set_robust_list, (void*)16, 24) == 0);
  atomic_store(&tid, gettid());
  syscall(SYS_exit, 3);
  return NULL;
}
static void* circle(void* unused) {
  (void)unused;
  // A list that never ends: the kernel stops after some thousand entries.
  static struct {
    void* next;
    long offset;
    void* pending;
  } head;
  static void* entries[4];
  head.next = entries, entries[0] = entries + 2, entries[2] = entries;
  head.offset = 8;
  CHECK(syscall(SYS_set_robust_list, &head, sizeof head) == 0);
  atomic_store(&tid, gettid());
  syscall(SYS_exit, 0);
  return NULL;
}
static void* unmap_own(void* size) {
  pthread_attr_t attributes;
  void* stack;
  size_t all;
  CHECK_OK(pthread_getattr_np(pthread_self(), &attributes));
  CHECK_OK(pthread_attr_getstack(&attributes, &stack, &all));
  (void)size;
  sigset_t set;
  sigfillset(&set);
  CHECK_OK(pthread_sigmask(SIG_SETMASK, &set, NULL));
  CHECK(syscall(SYS_set_tid_address, NULL) == gettid());
  CHECK(syscall(SYS_set_robust_list, NULL, 24) == 0);
  atomic_store(&tid, gettid());
  // Nothing may be pushed between the two.
  asm volatile(
      "syscall\n\t"
      "mov $60, %%eax\n\t"
      "xor %%edi, %%edi\n\t"
      "syscall"
      :
      : "a"(SYS_munmap), "D"(stack), "S"(all)
      : "rcx", "r11", "memory");
  return NULL;
}
static void run(void* (*function)(void*)) {
  atomic_store(&tid, 0);
  started(function, NULL);
  const int ending = until_set(&tid);
  while (syscall(SYS_tgkill, getpid(), ending, 0) == 0) sched_yield();
  CHECK(errno == ESRCH);
}

int main(void) {
  run(nowhere);
  run(circle);
  run(unmap_own);
  printf("ended\n");
  fflush(stdout);
  _exit(0);
}
