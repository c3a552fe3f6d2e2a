// Pointers that the kernel refuses: null, unmapped, read-only, the kernel's half, the end of the address
// space.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "check.h"

int main(void) {
  int ends[2];
  CHECK(pipe(ends) == 0 && write(ends[1], "0123456789", 10) == 10);
  char* hole = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void* read_only = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(munmap(hole, 4096) == 0);
  void* bad[] = {NULL, (void*)16, hole, (void*)0xffff800000000000, (void*)-1, (void*)0x8000000000000};
  const int zero = open("/dev/zero", O_RDONLY);
  for (int i = 0; i < 6; ++i) {
    CHECK_ERRNO(syscall(SYS_read, zero, bad[i], 8), EFAULT);
    CHECK_ERRNO(syscall(SYS_write, ends[1], bad[i], 8), EFAULT);
    CHECK_ERRNO(syscall(SYS_open, bad[i], O_RDONLY), EFAULT);
    CHECK_ERRNO(syscall(SYS_stat, "/", bad[i]), EFAULT);
    CHECK_ERRNO(syscall(SYS_pipe, bad[i]), EFAULT);
    CHECK_ERRNO(syscall(SYS_poll, bad[i], 1, 0), EFAULT);
    CHECK_ERRNO(syscall(SYS_getcwd, bad[i], 100), EFAULT);
    CHECK_ERRNO(syscall(SYS_uname, bad[i]), EFAULT);
    CHECK_ERRNO(syscall(SYS_rt_sigaction, 10, bad[i] ? bad[i] : bad[1], NULL, 8), EFAULT);
    CHECK_ERRNO(syscall(SYS_readlink, "/proc/self/exe", bad[i], 100), EFAULT);
  }
  CHECK_ERRNO(syscall(SYS_read, zero, read_only, 8), EFAULT);
  CHECK_ERRNO(syscall(SYS_clock_gettime, 0, read_only), EFAULT);
  CHECK_ERRNO(syscall(SYS_newfstatat, ends[0], NULL, read_only, AT_EMPTY_PATH), EFAULT);
  char buffer[20];
  CHECK(read(ends[0], buffer, 20) == 10);
  return 0;
}
