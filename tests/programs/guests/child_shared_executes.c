// A process that shares memory has a child that executes a program (posix_spawn, which waits for it, and
// fork) and shares none any more, while another one has it still.
// native: output
// no-checkpoints: it shares memory
// expect-output: 3 and 30
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"

extern char** environ;

int main(void) {
  volatile int* const memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  const pid_t counter = fork();
  CHECK(counter >= 0);
  if (counter == 0) {
    for (int i = 0; i < 30; ++i) {
      memory[1]++;
      usleep(100);
    }
    return 0;
  }
  char* const arguments[] = {"true", NULL};
  int status = 0;
  for (int i = 0; i < 3; ++i) {
    pid_t child = 0;
    if (i != 1) CHECK(posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ) == 0);
    if (i == 1 && (child = fork()) == 0) {
      execv("/bin/true", arguments);
      _exit(1);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    memory[0]++;
  }
  CHECK(waitpid(counter, &status, 0) == counter && status == 0);
  printf("%d and %d\n", memory[0], memory[1]);
  return 0;
}
