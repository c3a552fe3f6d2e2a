// A System V segment: one process inherits it attached, another attaches it by its key when it is there
// already, and has nothing of it by birth.
// native: output
// no-checkpoints: it shares memory
// expect-output: 1 2 3, then 6
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/wait.h>

#include "check.h"

static int id = -1;
static void remove_it(void) {
  if (id >= 0) shmctl(id, IPC_RMID, NULL);
}

static void end_of(pid_t child) {
  int status = 0;
  const pid_t ended = waitpid(child, &status, 0);
  CHECK(ended == child && status == 0);
}

int main(void) {
  before_failure = remove_it;
  int go[2];
  CHECK(pipe(go) == 0);
  const pid_t stranger = fork();  // before there is anything to share
  CHECK(stranger >= 0);
  if (stranger == 0) {
    int got = 0;
    CHECK(read(go[0], &got, sizeof got) == sizeof got);
    volatile int* const seen = shmat(got, NULL, 0);
    CHECK(seen != (void*)-1);
    CHECK(seen[0] == 1 && seen[1] == 2);
    seen[2] = seen[0] + seen[1];
    return 0;
  }
  id = shmget(IPC_PRIVATE, 3 * 4096, IPC_CREAT | 0600);
  CHECK(id >= 0);
  volatile int* const mine = shmat(id, NULL, 0);
  CHECK(mine != (void*)-1);
  mine[0] = 1;
  const pid_t heir = fork();
  CHECK(heir >= 0);
  if (heir == 0) {
    before_failure = NULL;
    mine[1] = mine[0] + 1;
    return 0;
  }
  end_of(heir);
  CHECK(write(go[1], &id, sizeof id) == sizeof id);
  end_of(stranger);
  printf("%d %d %d, then ", mine[0], mine[1], mine[2]);
  mine[0] += mine[1] + mine[2];
  printf("%d\n", mine[0]);
  remove_it();
  return 0;
}
