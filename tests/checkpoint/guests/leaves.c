// Takes root directory, user and descriptors away from the process that it shares with the recorder, and
// works on with new memory.
#include "calls.h"

int program(void) {
  volatile unsigned long* memory = map(0, 64 * 4096, kRead | kWrite, kPrivate | kAnonymous, -1);
  unsigned long sum = 1;
  for (unsigned long i = 0; i < 60; ++i) {
    memory[i * 512] = sum = sum * 7 + i;
    if (i == 10) call3(__NR_mkdir, (long)"jail", 0700, 0);
    if (i == 15) call3(__NR_chroot, (long)"jail", 0, 0);
    if (i == 20) call3(__NR_close_range, 3, ~0U, 0);
    if (i == 25) call3(__NR_setgid, 65534, 0, 0);
    if (i == 26) call3(__NR_setuid, 65534, 0, 0);
    if (i == 30) call3(__NR_umask, 0777, 0, 0);
    if (i == 40) call3(__NR_close_range, 0, 0, 0);
    tell(1, (long)i);
  }
  print_number(sum);
  return (int)(sum % 50);
}
