// A thread can't be made. Where that is asked for, the program is told so, cleanly, and goes on.
// record: --on-unsupported=continue
// says: clone3 (a new thread): ENOSYS
// flags: -pthread
#include <pthread.h>

#include "check.h"

static void* never(void* argument) { return argument; }

int main(void) {
  pthread_t thread;
  const int error = pthread_create(&thread, NULL, never, NULL);
  printf("pthread_create: %s\n", strerror(error));
  CHECK(error != 0);
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  CHECK(pthread_mutex_lock(&mutex) == 0 && pthread_mutex_unlock(&mutex) == 0);
  return 0;
}
