// Floating-point exceptions unmasked: SIGFPE by SSE and by x87, with the code that says why.
// flags: -lm
#include <fenv.h>
#include <setjmp.h>
#include <signal.h>

#include "check.h"

static sigjmp_buf back;
static volatile int code;
static void handler(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  code = info->si_code;
  siglongjmp(back, 1);
}

int main(void) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  sigaction(SIGFPE, &action, NULL);
  volatile double zero = 0, result = 0;
  volatile long double long_zero = 0, long_result = 0;
  for (volatile int i = 0; i < 3; ++i) {
    code = 0;
    feenableexcept(FE_DIVBYZERO | FE_INVALID);
    if (sigsetjmp(back, 1) == 0) {
      if (i == 0) result = 1 / zero;
      if (i == 1) result = zero / zero;
      if (i == 2) {
        long_result = 1 / long_zero;
        __asm__ volatile("fwait");
      }
      puts("not reached");
    }
    fedisableexcept(FE_ALL_EXCEPT);
    feclearexcept(FE_ALL_EXCEPT);
    printf("code %d\n", code);
    CHECK(code == (i == 1 ? FPE_FLTINV : FPE_FLTDIV));
  }
  return result != 0 || long_result != 0;
}
