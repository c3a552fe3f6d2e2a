// Three processes, each the child of the one before, with a thread more each, count in memory that they
// share, until somebody has written a byte to the pipe NAME; see the script killed-processes. usage:
// sharing_processes NAME
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "../guests/threads.h"

static atomic_uint* counters;
static int process;

static void* count(void* unused) {
  (void)unused;
  for (;;) {
    atomic_fetch_add(&counters[process], 1);
    compute_for(1000);
  }
  return NULL;
}

int main(int argument_count, char** arguments) {
  CHECK(argument_count == 2);
  counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(counters != MAP_FAILED);
  pid_t child = 1;
  while (process < 2 && (child = fork()) == 0) ++process;
  CHECK(child >= 0);
  started(count, NULL);
  while (atomic_load(&counters[process]) < 20) usleep(1000);
  printf("process %d counts\n", process);
  fflush(stdout);
  if (process == 2) {
    char byte;
    const int pipe = open(arguments[1], O_RDONLY);
    CHECK(pipe >= 0 && read(pipe, &byte, 1) == 1);
  } else {
    CHECK(waitpid(child, NULL, 0) == child);
  }
  printf("process %d ends\n", process);
  return 0;
}
