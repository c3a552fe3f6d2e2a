// Processes that execute a program and end, one after the other. args: fork|spawn count program
// Prints the microseconds that each took.
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char** environ;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const int forks = strcmp(argv[1], "fork") == 0;
  const long count = atol(argv[2]);
  char* args[] = {argv[3], NULL};
  const double begin = now();
  for (long i = 0; i < count; ++i) {
    pid_t child = -1;
    if (forks) {
      child = fork();
      if (child == 0) {
        execv(args[0], args);
        _exit(127);
      }
    } else if (posix_spawn(&child, args[0], NULL, NULL, args, environ) != 0) {
      return 1;
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) return 1;
  }
  printf("%.2f\n", (now() - begin) / (double)count);
  return 0;
}
