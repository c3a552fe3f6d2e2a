// A child that waits for a flag in shared memory without a call, and its parent, which waits for its answer
// likewise: either must be stopped for the other to run.
// native: output
// no-checkpoints: it shares memory
// expect-output: 20 times
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"

enum { kTimes = 20 };

int main(void) {
  volatile int* const flag = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(flag != MAP_FAILED);
  const pid_t child = fork();
  CHECK(child >= 0);
  for (int i = 0; i < kTimes; ++i) {
    if (child == 0) {
      while (*flag != 2 * i + 1) continue;
      *flag = 2 * i + 2;
    } else {
      *flag = 2 * i + 1;
      while (*flag != 2 * i + 2) continue;
    }
  }
  if (child == 0) return 0;
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  printf("%d times\n", *flag / 2);
  return 0;
}
