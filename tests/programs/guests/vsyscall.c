// The legacy vsyscall page: the kernel emulates its three calls where it is configured so, else they fault.
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

#include "seccomp_filter.h"

#define kGettimeofday 0xffffffffff600000
#define kTime 0xffffffffff600400
#define kGetcpu 0xffffffffff600800

static sigjmp_buf back;
static volatile sig_atomic_t traps;
static void* volatile fault_address;

static void on_fault(int signal, siginfo_t* info, void* context) {
  (void)context;
  fault_address = info->si_addr;
  siglongjmp(back, signal);
}

static void on_trap(int signal, siginfo_t* info, void* context) {
  const ucontext_t* state = context;
  CHECK(signal == SIGSYS && info->si_call_addr == (void*)kGetcpu && info->si_syscall == SYS_getcpu);
  CHECK(info->si_errno == 5 && state->uc_mcontext.gregs[REG_RAX] == SYS_getcpu);
  ++traps;
}

// A filter sees them as the system calls that they stand for, made at the page.
static void filtered(void) {
  struct sock_filter filter[] = {
      LOAD(nr),
      UNLESS(SYS_time, 1),
      GIVE(SECCOMP_RET_ERRNO | EXDEV),
      UNLESS(SYS_getcpu, 3),
      LOAD(instruction_pointer),
      UNLESS((uint32_t)kGetcpu, 1),
      GIVE(SECCOMP_RET_TRAP | 5),
      GIVE(SECCOMP_RET_ALLOW),
  };
  const struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGSYS, &action, NULL) == 0);
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(install(filter, sizeof filter / sizeof filter[0]) == 0);
  time_t seconds = 77;
  unsigned cpu = 1000;
  CHECK(((time_t(*volatile)(time_t*))kTime)(&seconds) == -EXDEV && seconds == 77);
  CHECK(((int (*volatile)(unsigned*, unsigned*, void*))kGetcpu)(&cpu, NULL, NULL) == SYS_getcpu);
  CHECK(traps == 1 && cpu == 1000);
  CHECK(((int (*volatile)(void*, void*))kGettimeofday)(NULL, NULL) == 0);
}

int main(void) {
  volatile int has_page = 1;
  const struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
  if (sigsetjmp(back, 1) == 0) {
    struct timeval now = {0}, later = {0};
    unsigned cpu = 1000, node = 1000;
    time_t seconds = 0;
    CHECK(((int (*volatile)(void*, void*))kGettimeofday)(&now, NULL) == 0);
    CHECK(((time_t(*volatile)(time_t*))kTime)(&seconds) == seconds);
    CHECK(((int (*volatile)(unsigned*, unsigned*, void*))kGetcpu)(&cpu, &node, NULL) == 0);
    CHECK(gettimeofday(&later, NULL) == 0 && now.tv_sec > 0 && now.tv_sec <= seconds &&
          seconds <= later.tv_sec + 1);
    CHECK(cpu < 1000 && node < 1000);
    printf("%ld.%06ld on processor %u\n", (long)now.tv_sec, (long)now.tv_usec, cpu);
  } else {
    has_page = 0;
    printf("no vsyscall page\n");
    CHECK(fault_address == (void*)kGettimeofday);
  }
  if (has_page) filtered();
  // Nothing else there can be called.
  if (sigsetjmp(back, 1) == 0) {
    ((void (*volatile)(void))0xffffffffff600010)();
    CHECK(0);
  }
  return 0;
}
