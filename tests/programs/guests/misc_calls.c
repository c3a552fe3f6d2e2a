// Small calls that programs make at their start, and the answers they must get.
#include <asm/prctl.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>

#include "check.h"

int main(void) {
  char name[17] = "";
  CHECK(prctl(PR_SET_NAME, "new name") == 0 && prctl(PR_GET_NAME, name) == 0 &&
        strcmp(name, "new name") == 0);
  CHECK(sched_yield() == 0 && sysconf(_SC_PAGESIZE) == 4096);
  struct termios terminal;
  CHECK(tcgetattr(1, &terminal) == -1 && isatty(1) == 0);
  CHECK_ERRNO(syscall(9999), ENOSYS);
  CHECK_ERRNO(syscall(-1), ENOSYS);
  CHECK(syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0) == 1);
  CHECK_ERRNO(syscall(SYS_arch_prctl, 0x9999, 0), EINVAL);
  const mode_t old = umask(077);
  CHECK(umask(old) == 077);
  printf("%d %o\n", getpriority(PRIO_PROCESS, 0), old);
  CHECK(fcntl(1, F_GETFL) >= 0 && fcntl(1, F_GETFD) == 0);
  int available = 0;
  const int null = open("/dev/null", O_RDWR);
  CHECK(ioctl(null, FIONREAD, &available) == -1);
  CHECK(syscall(SYS_futex, &available, 0 /* FUTEX_WAIT */, 5, NULL, NULL, 0) == -1 && errno == EAGAIN);
  CHECK(syscall(SYS_futex, &available, 1 /* FUTEX_WAKE */, 5, NULL, NULL, 0) == 0);
  CHECK(syscall(SYS_sched_getaffinity, 0, 4, name) == -1);
  return 0;
}
