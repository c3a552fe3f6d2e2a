// What wait(2) says of a core file: it hangs on the limit, the signal, and whether the process may be dumped.
// setup: mkdir cores
// native: output
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "check.h"

static const struct {
  rlim_t limit;
  int signal, dumpable;
} kCases[] = {{0, SIGSEGV, 1},       {4095, SIGABRT, 1},    {4096, SIGABRT, 1},   {1 << 20, SIGSEGV, 1},
              {1 << 20, SIGTERM, 1}, {1 << 20, SIGABRT, 0}, {1 << 20, SIGQUIT, 1}};

int main(void) {
  struct rlimit limit;
  CHECK(chdir("cores") == 0 && getrlimit(RLIMIT_CORE, &limit) == 0);
  for (size_t i = 0; i < sizeof kCases / sizeof *kCases; ++i) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      limit.rlim_cur = kCases[i].limit < limit.rlim_max ? kCases[i].limit : limit.rlim_max;
      CHECK(setrlimit(RLIMIT_CORE, &limit) == 0 && prctl(PR_SET_DUMPABLE, kCases[i].dumpable) == 0);
      if (kCases[i].signal == SIGSEGV) *(volatile int*)16 = 1;
      raise(kCases[i].signal);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == kCases[i].signal);
    printf("case %zu: %d\n", i, WCOREDUMP(status) != 0);
  }
  return 0;
}
