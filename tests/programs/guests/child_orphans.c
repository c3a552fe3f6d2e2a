// Grandchildren; a child whose parent ends first; a chain of them, each the child of the one before.
#include <sys/wait.h>

#include "check.h"

enum { kGenerations = 40 };

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  int ends[2], status = 0;
  CHECK(pipe(ends) == 0);
  pid_t child = fork();
  if (child == 0) {
    const pid_t parent = getpid();
    if (fork() == 0) {
      while (getppid() == parent) usleep(1000);
      const pid_t adopted_by = getppid();
      printf("orphan %d is now of %d\n", getpid(), adopted_by);
      CHECK(write(ends[1], &adopted_by, sizeof adopted_by) == sizeof adopted_by);
      _exit(1);
    }
    _exit(2);
  }
  CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 2);
  pid_t adopted_by = 0;
  CHECK(read(ends[0], &adopted_by, sizeof adopted_by) == sizeof adopted_by);
  CHECK(adopted_by != child);
  CHECK_ERRNO(wait(NULL), ECHILD);

  const pid_t first = getpid();
  int generation = 0;
  for (; generation < kGenerations; ++generation) {
    child = fork();
    CHECK(child >= 0);
    if (child != 0) break;
  }
  if (generation < kGenerations) {
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == kGenerations - generation - 1);
  }
  if (getpid() != first) return kGenerations - generation;
  printf("%d generations\n", kGenerations);
  return 0;
}
