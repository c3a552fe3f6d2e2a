// A file that a process and its child have mapped when nobody could change it is changed by another process:
// the two would not see that, so the recording ends there.
// expect: exit 69
// expect-output: mapped
// says: another process has mapped
// no-checkpoints: it shares memory
#include <fcntl.h>
#include <sys/mman.h>

#include "check.h"

static char name[] = "child-shared-XXXXXX";

int main(void) {
  int fd = mkstemp(name);
  int ends[2], hold[2];
  CHECK(fd >= 0 && ftruncate(fd, 4096) == 0 && close(fd) == 0 && pipe(ends) == 0 && pipe(hold) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    fd = open(name, O_RDONLY);
    const char* const seen = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(fd >= 0 && seen != MAP_FAILED);
    char byte;
    close(hold[1]);
    CHECK(write(ends[1], "m", 1) == 1);
    _exit(read(hold[0], &byte, 1) == 0 ? 0 : 1);
  }
  char byte = 0;
  CHECK(read(ends[0], &byte, 1) == 1);
  printf("mapped\n");
  fflush(stdout);
  fd = open(name, O_RDWR);
  unlink(name);
  const char* const memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  printf("%d\n", memory != MAP_FAILED);
  return 0;
}
