// Faults in threads are handled on alternate stacks of their own, with the fault's address, and left by a
// jump; one of them runs out of its stack.
// flags: -pthread
// native: output
#include <setjmp.h>
#include <sys/mman.h>

#include "threads.h"

enum { kThreads = 4, kRounds = 20, kSize = 65536 };
static __thread sigjmp_buf back;
static __thread char* stack;
static __thread volatile int faults;
static __thread void* volatile wanted;

static void handler(int signal, siginfo_t* info, void* context) {
  (void)context;
  const char* frame = __builtin_frame_address(0);
  CHECK(signal == SIGSEGV && frame > stack && frame < stack + kSize);
  if (wanted) CHECK(info->si_addr == wanted && info->si_code == SEGV_MAPERR);
  ++faults;
  siglongjmp(back, 1);
}
static int deeper(volatile char* above) {
  volatile char here[4096];
  here[0] = above[0];
  return here[0] == 77 ? 0 : deeper(here) + here[0];
}
static void* work(void* argument) {
  const intptr_t me = (intptr_t)argument;
  stack = mmap(NULL, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const stack_t alternate = {.ss_sp = stack, .ss_size = kSize};
  stack_t old;
  CHECK(stack != MAP_FAILED && sigaltstack(&alternate, &old) == 0 && old.ss_flags == SS_DISABLE);
  for (int round = 0; round < kRounds; ++round) {
    wanted = (void*)(me * 4096 + round * 8);
    if (sigsetjmp(back, 1) == 0) *(volatile long*)wanted = 1;
    CHECK(faults == round + 1);
  }
  volatile char first = 0;
  wanted = NULL;
  if (sigsetjmp(back, 1) == 0) deeper(&first);
  CHECK(sigaltstack(NULL, &old) == 0 && old.ss_sp == stack && old.ss_flags == 0);
  return (void*)(intptr_t)faults;
}

int main(void) {
  const struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  for (int i = 0; i < kThreads; ++i) printf("%ld faults\n", (long)joined(threads[i]));
  return 0;
}
