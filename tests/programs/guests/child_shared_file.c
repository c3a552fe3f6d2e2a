// A file that one process maps and another, which has opened it by its name, writes to by calls and maps,
// too; a third only reads it in a mapping.
// native: output
// no-checkpoints: it shares memory
// expect-output: call: four; writer: one two; reader: three
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"

static char name[] = "child-shared-XXXXXX";
static void remove_it(void) { unlink(name); }

static void end_of(pid_t child) {
  int status = 0;
  const pid_t ended = waitpid(child, &status, 0);
  CHECK(ended == child && status == 0);
}

int main(void) {
  const int fd = mkstemp(name);
  CHECK(fd >= 0);
  before_failure = remove_it;
  CHECK(ftruncate(fd, 2 * 4096) == 0);
  const pid_t ahead = fork();  // so that there are others when it is mapped
  CHECK(ahead >= 0);
  if (ahead == 0) return 0;
  end_of(ahead);
  char* const mine = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(mine != MAP_FAILED);
  strcpy(mine, "one");
  const pid_t caller = fork();
  CHECK(caller >= 0);
  if (caller == 0) {
    before_failure = NULL;
    CHECK(munmap(mine, 2 * 4096) == 0);
    const int own = open(name, O_WRONLY);
    CHECK(own >= 0 && pwrite(own, "four", 5, 100) == 5);  // never mapped here
    return 0;
  }
  end_of(caller);
  printf("call: %s; ", mine + 100);
  fflush(stdout);
  const pid_t writer = fork();
  CHECK(writer >= 0);
  if (writer == 0) {
    before_failure = NULL;
    CHECK(munmap(mine, 2 * 4096) == 0);
    const int own = open(name, O_RDWR);
    CHECK(own >= 0);
    CHECK(pwrite(own, "two", 4, 4096) == 4);  // without a mapping of its own
    char* const again = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, own, 4096);
    CHECK(again != MAP_FAILED && strcmp(again, "two") == 0);
    strcpy(again + 10, "three");
    return 0;
  }
  end_of(writer);
  printf("writer: %s %s; ", mine, mine + 4096);
  fflush(stdout);
  const pid_t reader = fork();
  CHECK(reader >= 0);
  if (reader == 0) {
    before_failure = NULL;
    const int own = open(name, O_RDONLY);
    const char* const seen = mmap(NULL, 2 * 4096, PROT_READ, MAP_SHARED, own, 0);
    CHECK(own >= 0 && seen != MAP_FAILED);
    printf("reader: %s\n", seen + 4096 + 10);
    return 0;
  }
  end_of(reader);
  remove_it();
  return 0;
}
