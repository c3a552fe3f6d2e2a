// A thread that is not the first forks; its child has that thread only, makes threads of its own, and runs
// programs.
// flags: -pthread
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "check.h"

static volatile int stop;
static int ends[2];

static void* compute(void* argument) {
  volatile unsigned long* const counter = argument;
  while (!stop) ++*counter;
  return NULL;
}

static void* wait_in_call(void* argument) {
  char byte;
  CHECK(read(ends[0], &byte, 1) == 1);
  return argument;
}

static void* in_child(void* argument) {
  *(int*)argument += 10;
  return NULL;
}

static void expect(pid_t child, int wanted) {
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == wanted);
}

static void* make_children(void* argument) {
  for (int i = 0; i < 5; ++i) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      CHECK(getpid() == syscall(SYS_gettid));
      int number = i;
      pthread_t threads[3];
      for (int t = 0; t < 3; ++t) {
        CHECK(pthread_create(&threads[t], NULL, in_child, &number) == 0);
        CHECK(pthread_join(threads[t], NULL) == 0);
      }
      exit(number);
    }
    expect(child, i + 30);
  }
  CHECK(system("exit 3") == 3 << 8);
  return argument;
}

int main(void) {
  unsigned long counter = 0;
  pthread_t computing, waiting, making;
  CHECK(pipe(ends) == 0);
  CHECK(pthread_create(&computing, NULL, compute, &counter) == 0);
  CHECK(pthread_create(&waiting, NULL, wait_in_call, NULL) == 0);
  CHECK(pthread_create(&making, NULL, make_children, NULL) == 0);
  CHECK(pthread_join(making, NULL) == 0);
  make_children(NULL);
  stop = 1;
  CHECK(write(ends[1], "x", 1) == 1);
  CHECK(pthread_join(computing, NULL) == 0 && pthread_join(waiting, NULL) == 0);
  printf("counted %lu\n", counter);
  return 0;
}
