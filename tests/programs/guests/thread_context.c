// A handler changes the registers of the thread that it interrupts, and ends its loop; blocked signals in the
// context become the thread's.
// flags: -pthread
// native: output
#include <ucontext.h>

#include "threads.h"

enum { kThreads = 3 };
static atomic_int tids[kThreads];
static void handler(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)info;
  ucontext_t* state = context;
  state->uc_mcontext.gregs[REG_R12] = 0x1234;
  sigaddset(&state->uc_sigmask, SIGUSR2);
}
static void* loop(void* argument) {
  const intptr_t me = (intptr_t)argument;
  unsigned long found;
  // Where only the handler changes R12.
  asm volatile(
      "xor %%r12d, %%r12d\n\t"
      "movl %2, (%1)\n"
      "1: test %%r12, %%r12\n\t"
      "jz 1b\n\t"
      "mov %%r12, %0"
      : "=r"(found)
      : "r"(&tids[me]), "r"(gettid())
      : "r12", "memory");
  sigset_t mask;
  CHECK_OK(pthread_sigmask(SIG_SETMASK, NULL, &mask));
  CHECK(sigismember(&mask, SIGUSR2) && !sigismember(&mask, SIGUSR1));
  return (void*)found;
}

int main(void) {
  const struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(loop, (void*)i);
  for (int i = 0; i < kThreads; ++i) {
    until_set(&tids[i]);
    CHECK_OK(pthread_kill(threads[i], SIGUSR1));
    CHECK(joined(threads[i]) == (void*)0x1234);
  }
  printf("left\n");
  return 0;
}
