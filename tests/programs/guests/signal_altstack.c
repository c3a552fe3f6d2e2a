// Handlers on an alternate stack: for a plain signal, and for a stack that overflowed.
// flags: -Wno-infinite-recursion
#include <setjmp.h>
#include <signal.h>

#include "check.h"

static char stack_memory[65536];
static sigjmp_buf back;
static volatile int plain;

static void handler(int signal, siginfo_t* info, void* context) {
  char here;
  (void)context;
  CHECK(&here > stack_memory && &here < stack_memory + sizeof stack_memory);
  stack_t now;
  CHECK(sigaltstack(NULL, &now) == 0 && (now.ss_flags & SS_ONSTACK));
  CHECK_ERRNO(sigaltstack(&now, NULL), EPERM);
  if (signal == SIGUSR1) {
    ++plain;
    return;
  }
  printf("overflow: code %d, address in the stack's hundred MB: %d\n", info->si_code,
         labs((char*)info->si_addr - (char*)&context) < 0x7fffffffffff);
  siglongjmp(back, 1);
}

__attribute__((noinline)) static int forever(int level) {
  volatile char frame[3000];
  frame[0] = (char)level;
  return forever(level + 1) + frame[0];
}

int main(void) {
  const stack_t stack = {.ss_sp = stack_memory, .ss_size = sizeof stack_memory};
  CHECK(sigaltstack(&stack, NULL) == 0);
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigaction(SIGUSR1, &action, NULL);
  sigaction(SIGSEGV, &action, NULL);
  raise(SIGUSR1);
  CHECK(plain == 1);
  for (volatile int i = 0; i < 3; ++i)
    if (sigsetjmp(back, 1) == 0) return forever(0);
  puts("survived");
  return 0;
}
