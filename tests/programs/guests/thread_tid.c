// Numbers of threads: gettid and getpid, the word that set_tid_address names, what /proc says.
// flags: -pthread
// native: output
#include <sys/stat.h>

#include "threads.h"

static atomic_int cleared, tid_of_first;
static void* change_word(void* libc_word) {
  const int tid = (int)syscall(SYS_gettid);
  CHECK(tid == gettid() && tid != getpid() && getpid() == *(int*)libc_word);
  char path[60];
  struct stat status;
  snprintf(path, sizeof path, "/proc/self/task/%d", tid);
  CHECK(stat(path, &status) == 0 && S_ISDIR(status.st_mode));
  char target[60];
  const ssize_t length = readlink("/proc/thread-self", target, sizeof target - 1);
  CHECK(length > 0);
  target[length] = 0;
  snprintf(path, sizeof path, "%d/task/%d", getpid(), tid);
  CHECK(strcmp(path, target) == 0);
  atomic_store(&cleared, tid);
  CHECK(syscall(SYS_set_tid_address, &cleared) == tid);
  atomic_store(&tid_of_first, tid);
  // Not by pthread_exit: nobody will be told by the libc's own word.
  syscall(SYS_exit, 0);
  return NULL;
}

int main(void) {
  int pid = getpid();
  CHECK(syscall(SYS_gettid) == pid);
  started(change_word, &pid);
  until_set(&tid_of_first);
  int value;
  while ((value = atomic_load(&cleared)) != 0) {
    CHECK(value == tid_of_first);
    syscall(SYS_futex, &cleared, FUTEX_WAIT, value, NULL, NULL, 0);
  }
  CHECK_ERRNO(syscall(SYS_tgkill, pid, -1, 0), EINVAL);
  // The number is gone once the kernel has taken the thread away.
  while (syscall(SYS_tgkill, pid, tid_of_first, 0) == 0) sched_yield();
  CHECK(errno == ESRCH);
  printf("cleared\n");
  return 0;
}
