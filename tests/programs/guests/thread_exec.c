// execve by a thread that isn't the first: the process keeps its number, the other threads are gone, and what
// a program keeps over execve is kept: the calling thread's mask, descriptors; not its alternate stack.
// flags: -pthread
// native: output
#include <dirent.h>

#include "threads.h"

static atomic_int here;
static void* stay(void* computes) {
  atomic_fetch_add(&here, 1);
  for (volatile unsigned n = 0;; ++n)
    if (!computes) pause();
  return NULL;
}
static void* change(void* unused) {
  (void)unused;
  while (atomic_load(&here) < 4) sched_yield();
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  CHECK_OK(pthread_sigmask(SIG_BLOCK, &set, NULL));
  char pid[20];
  snprintf(pid, sizeof pid, "%d", getpid());
  CHECK(gettid() != getpid() && dup2(1, 60) == 60);
  char* failing[] = {"nothing", NULL};
  CHECK_ERRNO(execv("/nothing/there", failing), ENOENT);  // all are still there
  printf("before\n");
  fflush(stdout);
  char* arguments[] = {"after", pid, NULL};
  execv("/proc/self/exe", arguments);
  CHECK(!"execv returned");
  return NULL;
}

int main(int argc, char** argv) {
  if (argc == 1) {
    for (intptr_t i = 0; i < 4; ++i) started(stay, (void*)(i % 2));
    joined(started(change, NULL));
    return 1;
  }
  CHECK(argc == 2 && getpid() == atoi(argv[1]) && gettid() == getpid());
  int threads = 0;
  DIR* tasks = opendir("/proc/self/task");
  CHECK(tasks);
  for (const struct dirent* entry; (entry = readdir(tasks));)
    if (entry->d_name[0] != '.') ++threads;
  CHECK(threads == 1);
  sigset_t mask;
  CHECK_OK(pthread_sigmask(SIG_SETMASK, NULL, &mask));
  CHECK(sigismember(&mask, SIGUSR2) == 1 && sigismember(&mask, SIGUSR1) == 0);
  // New threads, as ever.
  started(stay, (void*)1);
  while (!atomic_load(&here)) sched_yield();
  CHECK(dprintf(60, "%s\n", argv[0]) == 6);
  return 0;
}
