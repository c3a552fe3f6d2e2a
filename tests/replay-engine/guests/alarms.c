// A signal in the middle of a loop without exits, three times.
#include "calls.h"

static volatile unsigned long ticks, work;

static void on_alarm(int signal) {
  (void)signal;
  ticks = ticks + 1;
}

__attribute__((naked, used)) static void restorer(void) { __asm__("mov $15, %eax\n\tsyscall"); }

int program(void) {
  // arch/x86/include/uapi/asm/signal.h
  struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long mask;
  } action = {on_alarm, 0x04000000 /* SA_RESTORER */, restorer, 0};
  call6(__NR_rt_sigaction, 14 /* SIGALRM */, (long)&action, 0, sizeof action.mask, 0, 0);
  tell(1, (long)&work);
  for (unsigned long i = 1; i <= 3; ++i) {
    const long time[4] = {0, 0, 0, 3000};  // us, once
    call3(__NR_setitimer, 0, (long)time, 0);
    while (ticks < i) work = work * 5 + 1;
  }
  print_number(work);
  return 5;
}
