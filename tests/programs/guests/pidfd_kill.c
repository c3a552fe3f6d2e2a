// kill(getpid(), SIGKILL) by way of a descriptor: the program's own death, not the recorder's.
// expect: signal KILL
// expect-output: before
#include <signal.h>
#include <sys/syscall.h>

#include "check.h"

int main(void) {
  CHECK(write(1, "before\n", 7) == 7);
  const long self = syscall(SYS_pidfd_open, getpid(), 0);
  CHECK(self >= 0);
  syscall(SYS_pidfd_send_signal, self, SIGKILL, NULL, 0);
  return 1;
}
