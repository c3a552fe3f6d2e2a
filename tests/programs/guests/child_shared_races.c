// Processes that add to one number without a lock, so that some of it is lost: how much differs from run to
// run, and a replay has what was recorded.
// record: --chaos
// native: status
// no-checkpoints: it shares memory
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"

enum { kChildren = 3, kTimes = 300000 };

int main(void) {
  volatile unsigned* const number =
      mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(number != MAP_FAILED);
  for (int i = 0; i < kChildren; ++i) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child != 0) continue;
    for (int n = 0; n < kTimes; ++n) {
      const unsigned before = number[0];
      for (int pause = 0; pause < n % 8; ++pause) number[1 + i]++;
      number[0] = before + 1;
    }
    return 0;
  }
  for (int i = 0; i < kChildren; ++i) {
    int status = 0;
    CHECK(wait(&status) > 0 && status == 0);
  }
  CHECK(number[0] >= kTimes / 100 && number[0] <= kChildren * kTimes);
  printf("%u of %u\n", number[0], kChildren * kTimes);
  return 0;
}
