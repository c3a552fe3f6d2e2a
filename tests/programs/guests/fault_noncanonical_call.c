// A call, a jump and a return to non-canonical addresses: the processor has not branched when it faults.
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <ucontext.h>

#include "check.h"

static sigjmp_buf back;
static uintptr_t at, stack;
static void handler(int number, siginfo_t* info, void* context) {
  const ucontext_t* c = context;
  CHECK(number == SIGSEGV && info->si_code == SI_KERNEL && info->si_addr == NULL);
  at = c->uc_mcontext.gregs[REG_RIP];
  stack = c->uc_mcontext.gregs[REG_RSP];
  siglongjmp(back, 1);
}

extern char call_at[], jump_at[], return_at[];
static volatile uintptr_t stack_before;

int main(void) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
  const uintptr_t nowhere = 0x1234567890123456;
  if (sigsetjmp(back, 1) == 0)
    // AMD's processors have pushed the return address, Intel's have not: it is there already.
    __asm__ volatile(
        "mov %%rsp, %1; lea 1f(%%rip), %%rcx; mov %%rcx, -8(%%rsp); .globl call_at; call_at: call *%0; 1:" ::
            "a"(nowhere),
        "m"(stack_before)
        : "rcx", "memory");
  CHECK(at == (uintptr_t)call_at && stack == stack_before);
  if (sigsetjmp(back, 1) == 0)
    __asm__ volatile("mov %%rsp, %1; .globl jump_at; jump_at: jmp *%0" ::"a"(nowhere), "m"(stack_before)
                     : "memory");
  CHECK(at == (uintptr_t)jump_at && stack == stack_before);
  if (sigsetjmp(back, 1) == 0)
    __asm__ volatile(
        "push %0; push %0; mov %%rsp, %%rcx; mov %%rcx, %1; .globl return_at; return_at: ret $8" ::"a"(
            nowhere),
        "m"(stack_before)
        : "memory", "rcx");
  CHECK(at == (uintptr_t)return_at);
  puts("nowhere");
  return 0;
}
