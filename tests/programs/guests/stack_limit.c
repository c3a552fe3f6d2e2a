// The stack grows up to RLIMIT_STACK as it is now, with the kernel's own accesses to it, too; beyond is
// SEGV_MAPERR.
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>

#include "check.h"

static sigjmp_buf back;
static volatile int code;
static volatile uintptr_t address;

static void on_fault(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  code = info->si_code;
  address = (uintptr_t)info->si_addr;
  siglongjmp(back, 1);
}

__attribute__((noinline)) static int deep(int levels) {
  volatile char frame[4096];
  memset((char*)frame, levels, sizeof frame);
  return levels == 0 ? frame[7] : deep(levels - 1) + frame[9] - frame[10];
}

// A buffer below all that was touched: the kernel writes it.
__attribute__((noinline)) static int read_far_below(int fd) {
  char buffer[2 << 20];
  CHECK(read(fd, buffer, sizeof buffer) == sizeof buffer);
  return buffer[1 << 20];
}

int main(void) {
  static char other_stack[1 << 16];
  const stack_t alternate = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  CHECK(sigaltstack(&alternate, NULL) == 0 && sigaction(SIGSEGV, &action, NULL) == 0);
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_STACK, &limit) == 0);
  limit.rlim_cur = 64 << 20;
  CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
  const int fd = open("/dev/zero", O_RDONLY);
  CHECK(deep((8 << 20) / 4200) == 0);
  CHECK(read_far_below(fd) == 0);
  CHECK(deep(40 << 8) == 0);  // 40 MiB
  puts("40 MiB of stack used");
  char here;
  if (sigsetjmp(back, 1) == 0) {
    deep(1 << 20);
    CHECK(!"the stack has an end");
  }
  CHECK(code == SEGV_MAPERR);
  const uintptr_t used = (uintptr_t)&here - address;
  CHECK(used > 60 << 20 && used <= 64 << 20);
  printf("%d, %lu bytes\n", code, (unsigned long)used);
  return 0;
}
