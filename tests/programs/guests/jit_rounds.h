// Code that changes between timer signals.
#pragma once
#include <signal.h>
#include <sys/time.h>

#include "jit.h"

static volatile sig_atomic_t ticks;
static void count_tick(int signal) {
  (void)signal;
  ++ticks;
}

// Calls the code until a signal comes: many thousand times, and nothing between leaves the program, each time
// in another state.
static uint64_t call_until_tick(Function code, uint64_t constant) {
  const sig_atomic_t before = ticks;
  const struct itimerval soon = {{0, 0}, {0, 2000}};
  CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
  uint64_t calls = 0;
  for (; ticks == before; ++calls) CHECK(code(calls) == calls + constant);
  return calls;
}

// Writes the code at `written`; at `runs` is the same memory.
static void run_rounds(unsigned char* written, unsigned char* runs) {
  const struct sigaction action = {.sa_handler = count_tick, .sa_flags = SA_RESTART};
  CHECK(sigaction(SIGALRM, &action, NULL) == 0);
  uint64_t calls = 0;
  for (uint32_t round = 1; round <= 3; ++round) {
    emit_add(written, round);
    calls += call_until_tick((Function)runs, round);
  }
  printf("%llu calls\n", (unsigned long long)calls);
}
