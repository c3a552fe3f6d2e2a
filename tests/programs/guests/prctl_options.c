// Options of prctl whose state is the program's, not the recorder's.
#include <setjmp.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <x86intrin.h>

#include "check.h"

static sigjmp_buf back;
static volatile int code;
static void on_fault(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  code = info->si_code;
  siglongjmp(back, 1);
}

int main(void) {
  unsigned long auxv[200] = {0};
  const long size = prctl(0x41555856 /* PR_GET_AUXV */, auxv, sizeof auxv, 0, 0);
  if (size < 0) {
    CHECK(errno == EINVAL);  // before Linux 6.4
  } else {
    CHECK(size > 0 && size < (long)sizeof auxv && size % 16 == 0);
    int found = 0;
    for (int i = 0; auxv[i] != AT_NULL; i += 2)
      found += auxv[i] == AT_ENTRY && auxv[i + 1] == getauxval(AT_ENTRY);
    CHECK(found == 1);
    CHECK(prctl(0x41555856, auxv, 16, 0, 0) == size);
    CHECK_ERRNO(prctl(0x41555856, 8, sizeof auxv, 0, 0), EFAULT);
    CHECK_ERRNO(prctl(0x41555856, auxv, 16, 1, 0), EINVAL);
  }
  CHECK(prctl(PR_GET_DUMPABLE) == 1 && prctl(PR_SET_DUMPABLE, 0) == 0 && prctl(PR_GET_DUMPABLE) == 0);
  CHECK_ERRNO(prctl(PR_SET_DUMPABLE, 2), EINVAL);
  CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
  CHECK(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0);
  CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_EARLY);
  CHECK(prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 0, 0, 0) == 0);
  CHECK_ERRNO(prctl(PR_MCE_KILL, 99, 0, 0, 0), EINVAL);
  CHECK(prctl(PR_SET_TIMING, PR_TIMING_STATISTICAL) == 0);
  CHECK(prctl(PR_SET_NAME, "a name of more than 16 bytes") == 0);
  char name[17] = "";
  CHECK(prctl(PR_GET_NAME, name) == 0 && strcmp(name, "a name of more ") == 0);
  CHECK(prctl(PR_SET_PDEATHSIG, SIGUSR1) == 0);
  int signal = 0;
  CHECK(prctl(PR_GET_PDEATHSIG, &signal) == 0 && signal == SIGUSR1);
  int *cleared = NULL, word = 0;
  if (prctl(PR_GET_TID_ADDRESS, &cleared) == 0) {
    CHECK(cleared != NULL);
    CHECK(syscall(SYS_set_tid_address, &word) == getpid());
    CHECK(prctl(PR_GET_TID_ADDRESS, &cleared) == 0 && cleared == &word);
  }
  // The time stamp counter can be forbidden.
  const struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
  int mode = 0;
  CHECK(prctl(PR_GET_TSC, &mode) == 0 && mode == PR_TSC_ENABLE);
  CHECK_ERRNO(prctl(PR_SET_TSC, 3), EINVAL);
  CHECK(prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0 && prctl(PR_GET_TSC, &mode) == 0 && mode == PR_TSC_SIGSEGV);
  if (sigsetjmp(back, 1) == 0) {
    __rdtsc();
    CHECK(0);
  }
  CHECK(code == SI_KERNEL);
  CHECK(prctl(PR_SET_TSC, PR_TSC_ENABLE) == 0 && __rdtsc() != 0);
  CHECK_ERRNO(prctl(9999), EINVAL);
  return 0;
}
