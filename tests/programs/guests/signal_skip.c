// Handlers that step over what faulted: a division, an illegal instruction, a breakpoint; overflow of IDIV.
#include <signal.h>
#include <ucontext.h>

#include "check.h"

static void handler(int signal, siginfo_t* info, void* context) {
  ucontext_t* c = context;
  printf("signal %d code %d at entry: %d, trap %lld\n", signal, info->si_code,
         (long long)info->si_addr == c->uc_mcontext.gregs[REG_RIP], c->uc_mcontext.gregs[REG_TRAPNO]);
  if (signal != SIGTRAP) c->uc_mcontext.gregs[REG_RIP] += 2;
  c->uc_mcontext.gregs[REG_RCX] = 42;
}

int main(void) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  sigaction(SIGFPE, &action, NULL);
  sigaction(SIGILL, &action, NULL);
  sigaction(SIGTRAP, &action, NULL);
  unsigned a = 1, d = 0, c = 0;
  __asm__ volatile("div %%ecx" : "+a"(a), "+d"(d), "+c"(c));
  CHECK(c == 42 && a == 1);
  a = 0x80000000, d = 0xffffffff, c = 0xffffffff;
  __asm__ volatile("idiv %%ecx" : "+a"(a), "+d"(d), "+c"(c));
  CHECK(c == 42);
  c = 0;
  __asm__ volatile("ud2" : "+c"(c));
  CHECK(c == 42);
  c = 0;
  __asm__ volatile("int3" : "+c"(c));
  CHECK(c == 42);
  return 0;
}
