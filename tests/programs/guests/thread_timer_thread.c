// Timers that start threads (SIGEV_THREAD), with a value, once and again and again.
// flags: -pthread
// native: output
#include <semaphore.h>

#include "threads.h"

static sem_t ticked;
static atomic_int sum, main_tid;
static void tick(union sigval value) {
  CHECK(gettid() != atomic_load(&main_tid));
  atomic_fetch_add(&sum, value.sival_int);
  sem_post(&ticked);
}
static void wait_for_it(void) {
  while (sem_wait(&ticked) == -1) CHECK(errno == EINTR);
}

int main(void) {
  CHECK(sem_init(&ticked, 0, 0) == 0);
  atomic_store(&main_tid, gettid());
  struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = tick};
  timer_t once, often;
  event.sigev_value.sival_int = 1000;
  CHECK(timer_create(CLOCK_REALTIME, &event, &once) == 0);
  event.sigev_value.sival_int = 1;
  CHECK(timer_create(CLOCK_MONOTONIC, &event, &often) == 0);
  const struct itimerspec soon = {{0, 0}, {0, 1000000}}, every = {{0, 2000000}, {0, 1000000}};
  CHECK(timer_settime(once, 0, &soon, NULL) == 0);
  wait_for_it();
  CHECK(atomic_load(&sum) == 1000);
  CHECK(timer_settime(often, 0, &every, NULL) == 0);
  for (int i = 0; i < 5; ++i) wait_for_it();
  CHECK(timer_delete(often) == 0 && timer_delete(once) == 0);
  CHECK(atomic_load(&sum) >= 1005);
  printf("five\n");
  return 0;
}
