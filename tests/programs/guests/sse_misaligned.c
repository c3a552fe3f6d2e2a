// Operands of 16 bytes that must be aligned: SIGSEGV from the kernel, without an address. MOVUPS, scalars and
// string comparisons need none.
// flags: -msse4.2
#include <setjmp.h>
#include <signal.h>

#include "check.h"

static char memory[64] __attribute__((aligned(64)));
static sigjmp_buf back;
static void handler(int number, siginfo_t* info, void* context) {
  CHECK(number == SIGSEGV && info->si_code == SI_KERNEL && info->si_addr == NULL);
  siglongjmp(back, 1);
}

#define FAULTS(instruction)                                                     \
  do {                                                                          \
    if (sigsetjmp(back, 1) == 0) {                                              \
      __asm__ volatile(instruction ::"S"(memory + 4) : "xmm0", "memory", "cc"); \
      printf("no fault: %s\n", instruction);                                    \
      CHECK(0);                                                                 \
    }                                                                           \
    __asm__ volatile(instruction ::"S"(memory + 16) : "xmm0", "memory", "cc");  \
  } while (0)
#define WORKS(instruction) __asm__ volatile(instruction ::"S"(memory + 4) : "xmm0", "memory", "cc", "ecx")

int main(void) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
  FAULTS("addps (%0), %%xmm0");
  FAULTS("movaps (%0), %%xmm0");
  FAULTS("movaps %%xmm0, (%0)");
  FAULTS("movdqa (%0), %%xmm0");
  FAULTS("movdqa %%xmm0, (%0)");
  FAULTS("movntps %%xmm0, (%0)");
  FAULTS("movntdq %%xmm0, (%0)");
  FAULTS("movntdqa (%0), %%xmm0");
  FAULTS("pxor (%0), %%xmm0");
  FAULTS("pshufd $0, (%0), %%xmm0");
  FAULTS("shufps $0, (%0), %%xmm0");
  FAULTS("pshufb (%0), %%xmm0");
  FAULTS("mulpd (%0), %%xmm0");
  FAULTS("rcpps (%0), %%xmm0");
  FAULTS("dpps $0x11, (%0), %%xmm0");
  WORKS("movups (%0), %%xmm0");
  WORKS("movdqu %%xmm0, (%0)");
  WORKS("lddqu (%0), %%xmm0");
  WORKS("addss (%0), %%xmm0");
  WORKS("cvtps2pd (%0), %%xmm0");
  WORKS("pmovzxbw (%0), %%xmm0");
  WORKS("pcmpistri $0, (%0), %%xmm0");
  puts("misaligned");
  return 0;
}
