// Detached threads: made so, and made so afterwards. Their stacks are used again.
// flags: -pthread
// native: output
#include <semaphore.h>

#include "threads.h"

static sem_t done;
static atomic_int sum;
static void* work(void* argument) {
  atomic_fetch_add(&sum, (int)(intptr_t)argument);
  sem_post(&done);
  return NULL;
}
static void* detach_itself(void* argument) {
  CHECK_OK(pthread_detach(pthread_self()));
  return work(argument);
}

int main(void) {
  CHECK(sem_init(&done, 0, 0) == 0);
  pthread_attr_t attributes;
  CHECK_OK(pthread_attr_init(&attributes));
  CHECK_OK(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED));
  for (intptr_t i = 1; i <= 30; ++i) {
    pthread_t thread;
    if (i % 3 == 0) CHECK_OK(pthread_create(&thread, &attributes, work, (void*)i));
    if (i % 3 == 1) started(detach_itself, (void*)i);
    if (i % 3 == 2) CHECK_OK(pthread_detach(started(work, (void*)i)));
    if (i % 5 == 0)
      for (int n = 0; n < 5; ++n) CHECK(sem_wait(&done) == 0);
  }
  printf("%d\n", atomic_load(&sum));
  return 0;
}
