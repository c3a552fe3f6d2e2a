// The first thread ends by pthread_exit; the others go on, join it, and the last one's end is the process's.
// flags: -pthread
// native: output
#include "threads.h"

static pthread_t first;
static void at_exit(void) { printf("at exit\n"), fflush(stdout); }
static void* go_on(void* unused) {
  (void)unused;
  CHECK(joined(first) == (void*)99);
  CHECK(getpid() != gettid());
  // The leader is still a number, if a dead one.
  CHECK(kill(getpid(), 0) == 0);
  unsigned state = 1, sum = 0;
  for (int i = 0; i < 1000; ++i) sum += next_random(&state);
  printf("%u\n", sum);
  fflush(stdout);
  return NULL;
}
static void* then_this(void* thread) {
  joined(*(pthread_t*)thread);
  printf("last\n");
  return NULL;
}

int main(void) {
  static pthread_t second;
  CHECK(atexit(at_exit) == 0);
  first = pthread_self();
  second = started(go_on, NULL);
  started(then_this, &second);
  pthread_exit((void*)99);
}
