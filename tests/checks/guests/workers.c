// Three workers beside each other, without ghost memory; the last executes another program (its path is the
// argument), whose VAsserts are others.
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vassert.h"

enum { workers = 3, steps = 40 };

static long sum;

static __attribute__((noinline)) void step(int worker, int number) {
  VASSERT_MSG(number % 16 != 15, "worker %d, step %d", worker, number);
  sum += number;
  if (number % 4 == 0) getppid();
}

int main(int argc, char** argv) {
  for (int worker = 1; worker <= workers; ++worker) {
    if (fork() != 0) continue;
    for (int i = 0; i < steps / worker; ++i) step(worker, i);
    dprintf(STDOUT_FILENO, "worker %d: %ld\n", worker, sum);
    if (worker == workers && argc > 1) execl(argv[1], argv[1], (char*)0);
    _exit(0);
  }
  int status = 0, all = 0;
  while (wait(&status) > 0) all |= status;
  return all != 0;
}
