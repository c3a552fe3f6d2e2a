// Timers whose signals go to one thread each, while it computes or waits.
// flags: -pthread
// native: output
#include "threads.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif
enum { kThreads = 3, kTicks = 8 };
static __thread volatile int ticks, own_tid;
static void handler(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  CHECK(gettid() == own_tid && info->si_code == SI_TIMER && info->si_value.sival_int == own_tid);
  ++ticks;
}
static void* work(void* argument) {
  const intptr_t kind = (intptr_t)argument;
  own_tid = gettid();
  struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 1};
  event.sigev_value.sival_int = own_tid, event.sigev_notify_thread_id = own_tid;
  timer_t timer;
  CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
  const struct itimerspec every = {{0, 2000000}, {0, 2000000}}, never = {{0, 0}, {0, 0}};
  CHECK(timer_settime(timer, 0, &every, NULL) == 0);
  unsigned state = 1;
  while (ticks < kTicks) {
    if (kind == 0) next_random(&state);
    if (kind == 1) sched_yield();
    if (kind == 2) nap(1);
  }
  CHECK(timer_settime(timer, 0, &never, NULL) == 0 && timer_delete(timer) == 0);
  return NULL;
}

int main(void) {
  const struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGRTMIN + 1, &action, NULL) == 0);
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 1};
  event.sigev_notify_thread_id = 1;  // of another process
  timer_t timer;
  CHECK_ERRNO(timer_create(CLOCK_MONOTONIC, &event, &timer), EINVAL);
  printf("ticks\n");
  return 0;
}
