// What semop(2) undoes at a thread's end: without CLONE_SYSVSEM that is the thread's own, and is undone when
// it ends; with it, it is the process's.
// native: output
#include <sys/ipc.h>
#include <sys/sem.h>

#include "threads.h"

static int semaphore;
static char stack[65536] __attribute__((aligned(16)));
static atomic_int cleared;

static int add(void* unused) {
  (void)unused;
  struct sembuf operation = {.sem_op = 1, .sem_flg = SEM_UNDO};
  syscall(SYS_semop, semaphore, &operation, 1);
  syscall(SYS_exit, 0);
  return 0;
}

int main(void) {
  semaphore = semget(IPC_PRIVATE, 1, 0600);
  if (semaphore == -1 && errno == ENOSYS) return printf("none here\n"), 0;
  CHECK(semaphore >= 0);
  for (int shared = 0; shared < 2; ++shared) {
    atomic_store(&cleared, 1);
    const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                      CLONE_CHILD_CLEARTID | (shared ? CLONE_SYSVSEM : 0);
    const int thread = clone(add, stack + sizeof stack, flags, NULL, NULL, NULL, &cleared);
    CHECK(thread > 0);
    while (syscall(SYS_tgkill, getpid(), thread, 0) == 0) nap(1);
    nap(20);
    printf("%s: %d\n", shared ? "shared" : "its own", semctl(semaphore, 0, GETVAL));
  }
  semctl(semaphore, 0, IPC_RMID);
  return 0;
}
