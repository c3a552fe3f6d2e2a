// Which fault a non-canonical address raises depends on the register: SIGBUS through the stack segment, else
// SIGSEGV. Both without an address.
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include "check.h"

#define BAD 0x1234567890123456
static sigjmp_buf back;
static volatile int got, code, trap, error;
static void on_fault(int signal, siginfo_t* info, void* context) {
  const greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
  got = signal;
  code = info->si_addr == NULL ? info->si_code : -1;
  trap = (int)registers[REG_TRAPNO];
  error = (int)registers[REG_ERR];
  siglongjmp(back, 1);
}

#define TRY(signal, number, text)                                              \
  do {                                                                         \
    if (sigsetjmp(back, 1) == 0) {                                             \
      __asm__ volatile(text : : "r"(BAD) : "rax", "rbx", "rcx", "memory");     \
      CHECK(0);                                                                \
    }                                                                          \
    CHECK(got == signal && code == SI_KERNEL && trap == number && error == 0); \
  } while (0)

int main(void) {
  static char stack[65536];
  const stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  const struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  CHECK(sigaltstack(&alternate, NULL) == 0);
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
  TRY(SIGSEGV, 13, "mov (%0), %%eax");
  TRY(SIGSEGV, 13, "mov %%eax, 8(%0)");
  TRY(SIGSEGV, 13, "mov %0, %%rcx; addl $1, (%%rcx)");
  TRY(SIGBUS, 12, "mov %0, %%rsp; push %%rax");
  TRY(SIGBUS, 12, "mov %0, %%rsp; pop %%rax");
  TRY(SIGBUS, 12, "mov %0, %%rsp; mov 8(%%rsp), %%eax");
  TRY(SIGBUS, 12, "mov %0, %%rsp; call 1f; 1:");
  TRY(SIGBUS, 12, "mov %0, %%rsp; ret");
  TRY(SIGBUS, 12, "mov %%rbp, %%rbx; mov %0, %%rbp; mov (%%rbp), %%eax");
  TRY(SIGSEGV, 13, "mov %0, %%rcx; xor %%eax, %%eax; mov (%%rcx,%%rax), %%eax");
  return 0;
}
