// A process that shares memory prints while its child waits for its first turn: a replay shows that before
// the turn.
// native: status
// no-checkpoints: it shares memory
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"

int main(void) {
  atomic_int* const count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(count != MAP_FAILED);
  setvbuf(stdout, NULL, _IONBF, 0);
  for (int i = 0; i < 5; ++i) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child > 0) printf("parent of %d\n", i);
    atomic_fetch_add(count, 1);
    if (child == 0) {
      printf("child %d\n", i);
      _exit(0);
    }
    CHECK(waitpid(child, NULL, 0) == child);
  }
  CHECK(atomic_load(count) == 10);
  return 0;
}
