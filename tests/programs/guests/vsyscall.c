// The legacy vsyscall page: the kernel emulates its three calls where it is configured so, else they fault.
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>

#include "check.h"

static sigjmp_buf back;
static void* volatile fault_address;

static void on_fault(int signal, siginfo_t* info, void* context) {
  (void)context;
  fault_address = info->si_addr;
  siglongjmp(back, signal);
}

int main(void) {
  const struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
  if (sigsetjmp(back, 1) == 0) {
    struct timeval now = {0}, later = {0};
    unsigned cpu = 1000, node = 1000;
    time_t seconds = 0;
    CHECK(((int (*volatile)(void*, void*))0xffffffffff600000)(&now, NULL) == 0);
    CHECK(((time_t(*volatile)(time_t*))0xffffffffff600400)(&seconds) == seconds);
    CHECK(((int (*volatile)(unsigned*, unsigned*, void*))0xffffffffff600800)(&cpu, &node, NULL) == 0);
    CHECK(gettimeofday(&later, NULL) == 0 && now.tv_sec > 0 && now.tv_sec <= seconds &&
          seconds <= later.tv_sec + 1);
    CHECK(cpu < 1000 && node < 1000);
    printf("%ld.%06ld on processor %u\n", (long)now.tv_sec, (long)now.tv_usec, cpu);
  } else {
    printf("no vsyscall page\n");
    CHECK(fault_address == (void*)0xffffffffff600000);
  }
  // Nothing else there can be called.
  if (sigsetjmp(back, 1) == 0) {
    ((void (*volatile)(void))0xffffffffff600010)();
    CHECK(0);
  }
  return 0;
}
