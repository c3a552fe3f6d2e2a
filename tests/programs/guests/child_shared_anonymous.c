// Memory that parent and child share, by turns that a futex in it hands over: a sum that neither could have
// reached alone.
// native: output
// no-checkpoints: it shares memory
// expect-output: sum 5050, turns 101
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "check.h"

struct shared {
  unsigned turn;  // even: the parent's
  unsigned sum;
};

static void wait_for(unsigned* turn, unsigned parity) {
  for (;;) {
    const unsigned now = __atomic_load_n(turn, __ATOMIC_ACQUIRE);
    if (now % 2 == parity) return;
    syscall(SYS_futex, turn, FUTEX_WAIT, now, NULL, NULL, 0);
  }
}

static void take_part(struct shared* shared, unsigned parity) {
  for (;;) {
    wait_for(&shared->turn, parity);
    const unsigned turn = shared->turn;
    if (turn <= 100) shared->sum += turn;
    if (turn <= 100) __atomic_store_n(&shared->turn, turn + 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &shared->turn, FUTEX_WAKE, 1, NULL, NULL, 0);
    if (turn >= 99) return;
  }
}

int main(void) {
  struct shared* const shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED);
  const pid_t child = fork();
  CHECK(child >= 0);
  take_part(shared, child == 0);
  if (child == 0) return 3;
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 3);
  printf("sum %u, turns %u\n", shared->sum, shared->turn);
  return 0;
}
