// A child that computes in shared memory is stopped, or stops itself, and goes on; meanwhile, others do.
// native: output
// no-checkpoints: it shares memory
// expect-output: stopped, went on twice
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"

int main(void) {
  volatile unsigned long* const count =
      mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(count != MAP_FAILED);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0)
    while (count[1] == 0) count[0]++;
  if (child == 0) {
    CHECK(raise(SIGSTOP) == 0);
    return 0;
  }
  while (count[0] < 1000) continue;
  int status = 0;
  CHECK(kill(child, SIGSTOP) == 0);
  CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
  const unsigned long stopped_at = count[0];
  for (int i = 0; i < 20; ++i) usleep(1000);
  printf("%s, ", count[0] == stopped_at ? "stopped" : "not stopped");
  CHECK(kill(child, SIGCONT) == 0);
  while (count[0] == stopped_at) continue;
  count[1] = 1;
  CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
  CHECK(kill(child, SIGCONT) == 0);
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  printf("went on twice\n");
  return 0;
}
