// A filter that kills: no handler gets the signal.
// expect: signal SYS
#include <signal.h>

#include "seccomp_filter.h"

static void handler(int signal) {
  (void)signal;
  _exit(5);
}

int main(void) {
  signal(SIGSYS, handler);
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  struct sock_filter filter[] = {LOAD(nr), UNLESS(SYS_getppid, 1), GIVE(SECCOMP_RET_KILL_PROCESS),
                                 GIVE(SECCOMP_RET_ALLOW)};
  CHECK(install(filter, 4) == 0);
  puts("before");
  fflush(stdout);
  syscall(SYS_getppid);
  return 6;
}
