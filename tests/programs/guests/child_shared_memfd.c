// A memfd mapped by two processes, each by itself; and it grows while both have it mapped.
// native: output
// no-checkpoints: it shares memory
// expect-output: child saw hello, parent saw world, grown 7
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"

static char* map(int fd, size_t offset) {
  char* const at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
  CHECK(at != MAP_FAILED);
  return at;
}

int main(void) {
  const int fd = memfd_create("shared", 0);
  CHECK(fd >= 0 && ftruncate(fd, 4096) == 0);
  int to_child[2], to_parent[2];
  CHECK(pipe(to_child) == 0 && pipe(to_parent) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  char token = 0;
  if (child == 0) {
    char* const memory = map(fd, 0);
    CHECK(write(to_parent[1], &token, 1) == 1 && read(to_child[0], &token, 1) == 1);
    printf("child saw %s, ", memory);
    fflush(stdout);
    strcpy(memory, "world");
    CHECK(ftruncate(fd, 3 * 4096) == 0);
    map(fd, 2 * 4096UL)[5] = 7;
    return 0;
  }
  CHECK(read(to_parent[0], &token, 1) == 1);
  char* const memory = map(fd, 0);
  strcpy(memory, "hello");
  CHECK(write(to_child[1], &token, 1) == 1);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  printf("parent saw %s, grown %d\n", memory, map(fd, 2 * 4096UL)[5]);
  return 0;
}
