// A program that single-steps itself: SIGTRAP after each instruction.
#include <signal.h>
#include <stdint.h>
#include <ucontext.h>

#include "check.h"

static volatile int traps;
static uintptr_t last;
static void on_trap(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  ++traps;
  last = (uintptr_t)info->si_addr;
}

int main(void) {
  struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGTRAP, &action, NULL) == 0);
  uintptr_t end = 0;
  __asm__ volatile(
      "pushfq; orq $0x100, (%%rsp); popfq; nop; nop; pushfq; andq $~0x100, (%%rsp); popfq; 1: lea 1b(%%rip), "
      "%0"
      : "=r"(end)
      :
      : "memory", "cc");
  CHECK(traps == 5 && last == end);
  printf("%d traps\n", traps);
  return 0;
}
