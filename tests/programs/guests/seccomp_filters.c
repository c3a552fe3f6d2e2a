// Filters of system calls: errors, traps, arguments, several together, arithmetic, and what is no filter.
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <ucontext.h>

#include "seccomp_filter.h"

static volatile sig_atomic_t traps, reason, number;
static void trapped(int signal, siginfo_t* info, void* context) {
  if (signal != SIGSYS || info->si_code != 1 || info->si_arch != AUDIT_ARCH_X86_64) _exit(9);
  ucontext_t* state = context;
  if ((uint64_t)info->si_call_addr != (uint64_t)state->uc_mcontext.gregs[REG_RIP]) _exit(8);
  if (state->uc_mcontext.gregs[REG_RAX] != info->si_syscall) _exit(7);
  ++traps, reason = info->si_errno, number = info->si_syscall;
  state->uc_mcontext.gregs[REG_RAX] = 1234;
}

// The number in a line of /proc/self/status.
static long status(const char* name) {
  static char text[8192];
  const int fd = open("/proc/self/status", O_RDONLY);
  const ssize_t size = read(fd, text, sizeof text - 1);
  CHECK(fd >= 0 && size > 0 && close(fd) == 0);
  text[size] = 0;
  const char* line = strstr(text, name);
  return line == NULL ? -1 : strtol(line + strlen(name), NULL, 10);
}

int main(void) {
  struct sock_filter nothing[] = {GIVE(SECCOMP_RET_ALLOW)};
  if (geteuid() != 0) CHECK_ERRNO(install(nothing, 1), EACCES);
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_DISABLED);
  const struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGSYS, &action, NULL) == 0);

  struct sock_filter first[] = {
      LOAD(arch),
      UNLESS(AUDIT_ARCH_X86_64, 10),
      LOAD(nr),
      UNLESS(SYS_getppid, 1),
      GIVE(SECCOMP_RET_ERRNO | EXDEV),
      UNLESS(SYS_getpgrp, 1),
      GIVE(SECCOMP_RET_TRAP | 77),
      UNLESS(SYS_sched_yield, 1),
      GIVE(SECCOMP_RET_TRACE),
      UNLESS(SYS_getsid, 1),
      GIVE(SECCOMP_RET_ERRNO | 512),  // within the kernel: to be restarted
      UNLESS(SYS_getpgid, 1),
      GIVE(SECCOMP_RET_ERRNO | 514),
      GIVE(SECCOMP_RET_ALLOW),
  };
  const long before = status("\nSeccomp_filters:");
  CHECK(install(first, sizeof first / sizeof first[0]) == 0);
  CHECK(prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_FILTER);
  CHECK_ERRNO(syscall(SYS_getppid), EXDEV);
  CHECK(syscall(SYS_getpgrp) == 1234 && traps == 1 && reason == 77 && number == SYS_getpgrp);
  CHECK_ERRNO(syscall(SYS_sched_yield), ENOSYS);
  CHECK_ERRNO(syscall(SYS_getsid, 0), 512);
  CHECK_ERRNO(syscall(SYS_getpgid, 0), 514);
  CHECK(syscall(SYS_getpid) > 0);
  CHECK(status("\nSeccomp:") == SECCOMP_MODE_FILTER && status("\nSeccomp_filters:") == before + 1);

  // By an argument, worked out: (args[0] * 3 + 1) / 2, kept in memory; a later filter can only take more
  // away.
  struct sock_filter second[] = {
      LOAD(nr),
      UNLESS(SYS_umask, 9),
      LOAD(args[0]),
      BPF_STMT(BPF_ALU | BPF_MUL | BPF_K, 3),
      BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, 1),
      BPF_STMT(BPF_ST, 5),
      BPF_STMT(BPF_LDX | BPF_MEM, 5),
      BPF_STMT(BPF_MISC | BPF_TXA, 0),
      BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 1),
      BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 50, 0, 1),
      GIVE(SECCOMP_RET_ERRNO | 0xfff),
      GIVE(SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog program = {sizeof second / sizeof second[0], second};
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0);
  syscall(SYS_umask, 022);
  CHECK(syscall(SYS_umask, 022) == 022);
  CHECK_ERRNO(syscall(SYS_umask, 077), 0xfff);
  struct sock_filter third[] = {LOAD(nr), UNLESS(SYS_getppid, 1), GIVE(SECCOMP_RET_ERRNO | ENOTTY),
                                GIVE(SECCOMP_RET_ALLOW)};
  CHECK(install(third, 4) == 0);
  CHECK_ERRNO(syscall(SYS_getppid), ENOTTY);  // of equal actions the newest
  CHECK(syscall(SYS_getpgrp) == 1234 && traps == 2);

  // No filters.
  struct sock_filter bad[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), GIVE(SECCOMP_RET_ALLOW)};
  CHECK_ERRNO(install(bad, 2), EINVAL);
  bad[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, sizeof(struct seccomp_data));
  CHECK_ERRNO(install(bad, 2), EINVAL);
  bad[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_MEM, 1);  // never written
  CHECK_ERRNO(install(bad, 2), EINVAL);
  bad[0] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JA, 1, 0, 0);
  CHECK_ERRNO(install(bad, 2), EINVAL);
  bad[0] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0);
  CHECK_ERRNO(install(bad, 2), EINVAL);
  CHECK_ERRNO(install(bad, 0), EINVAL);
  CHECK_ERRNO(install((void*)8, 2), EFAULT);
  CHECK_ERRNO(install(NULL, 2), EINVAL);
  CHECK_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, NULL), EINVAL);
  const uint32_t known = SECCOMP_RET_TRAP, unknown = 0x12340000;
  CHECK(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &known) == 0);
  CHECK_ERRNO(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &unknown), EOPNOTSUPP);
  printf("filtered, %d traps\n", (int)traps);
  return 0;
}
