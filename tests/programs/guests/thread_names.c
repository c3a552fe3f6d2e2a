// Names of threads, by prctl, by pthread_setname_np of another, by /proc; the list of threads and their
// number.
// flags: -pthread
// native: output
#include <dirent.h>
#include <fcntl.h>
#include <sys/prctl.h>

#include "threads.h"

enum { kThreads = 3 };
static pthread_barrier_t barrier;
static atomic_int tids[kThreads];

static void* work(void* argument) {
  const int me = (int)(intptr_t)argument;
  char name[16], got[17];
  CHECK(prctl(PR_GET_NAME, got) == 0 && strcmp(got, "thread_names") == 0);  // inherited
  snprintf(name, sizeof name, "worker-%d", me);
  if (me) CHECK(prctl(PR_SET_NAME, name) == 0 && prctl(PR_GET_NAME, got) == 0 && strcmp(got, name) == 0);
  tids[me] = gettid();
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  return NULL;
}
static void show(const char* path) {
  char text[40] = "";
  const int fd = open(path, O_RDONLY);
  CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
  close(fd);
  printf("%s", text);
}
// Of "Name: N" in a file, N.
static int value_of(const char* path, const char* name) {
  char line[200];
  int value = -1;
  FILE* file = fopen(path, "r");
  CHECK(file);
  while (fgets(line, sizeof line, file))
    if (strncmp(line, name, strlen(name)) == 0) value = atoi(line + strlen(name));
  fclose(file);
  return value;
}
static int tasks(void) {
  int count = 0;
  DIR* directory = opendir("/proc/self/task");
  CHECK(directory);
  for (const struct dirent* entry; (entry = readdir(directory));) {
    if (entry->d_name[0] == '.') continue;
    const int tid = atoi(entry->d_name);
    int known = tid == getpid();
    for (int i = 0; i < kThreads; ++i) known |= tid == tids[i];
    CHECK(known);
    ++count;
  }
  closedir(directory);
  return count;
}

int main(void) {
  CHECK_OK(pthread_barrier_init(&barrier, NULL, kThreads + 1));
  CHECK(tasks() == 1 && value_of("/proc/self/status", "Threads:\t") == 1);
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  pthread_barrier_wait(&barrier);
  CHECK_OK(pthread_setname_np(threads[0], "first"));
  CHECK(pthread_setname_np(threads[0], "a name that is too long") == ERANGE);
  char path[80], name[16];
  for (int i = 0; i < kThreads; ++i) {
    snprintf(path, sizeof path, "/proc/self/task/%d/comm", tids[i]);
    show(path);
    snprintf(path, sizeof path, "/proc/%d/task/%d/status", getpid(), tids[i]);
    CHECK(value_of(path, "Pid:\t") == tids[i] && value_of(path, "Tgid:\t") == getpid());
    CHECK(value_of(path, "Threads:\t") == kThreads + 1);
    CHECK_OK(pthread_getname_np(threads[i], name, sizeof name));
    printf("%s\n", name);
  }
  CHECK(tasks() == kThreads + 1 && value_of("/proc/self/status", "Threads:\t") == kThreads + 1);
  show("/proc/self/comm");
  CHECK(prctl(PR_SET_NAME, "a leader's name of any length") == 0);
  show("/proc/self/comm");
  show("/proc/thread-self/comm");
  pthread_barrier_wait(&barrier);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  // The kernel takes a thread from the list after it has told who joins it.
  while (tasks() != 1) sched_yield();
  printf("%d\n", value_of("/proc/self/status", "Threads:\t"));
  return 0;
}
