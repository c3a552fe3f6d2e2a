// Strict: reading, writing and ending are all that is left.
// expect: signal KILL
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "check.h"

int main(void) {
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0) == 0);
  CHECK(write(1, "written\n", 8) == 8);
  syscall(SYS_getpid);
  return 6;
}
