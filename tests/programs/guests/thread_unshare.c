// Threads with a directory of their own (unshare), and those that share it.
// flags: -pthread
// native: output
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#include "threads.h"

static pthread_barrier_t barrier;
static char first[PATH_MAX];
static int in(const char* name) {
  char path[PATH_MAX];
  CHECK(getcwd(path, sizeof path));
  return strncmp(path, first, strlen(first)) == 0 && strcmp(path + strlen(first), name) == 0;
}
static void* shares(void* unused) {
  (void)unused;
  CHECK(chdir("a") == 0);
  umask(0123);
  return (void*)(intptr_t)open("/dev/null", O_RDONLY);
}
static void* has_own(void* unused) {
  (void)unused;
  CHECK(unshare(CLONE_FS) == 0 && in("/a") && chdir("../b") == 0 && in("/b"));
  umask(0);
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);  // the first has gone to its start
  CHECK(in("/b") && umask(0) == 0);
  const int made = open("file", O_CREAT | O_WRONLY, 0600);
  CHECK(made >= 0 && close(made) == 0);
  pthread_barrier_wait(&barrier);
  return NULL;
}

int main(void) {
  CHECK(getcwd(first, sizeof first) && mkdir("a", 0700) == 0 && mkdir("b", 0700) == 0);
  CHECK_OK(pthread_barrier_init(&barrier, NULL, 2));
  const int fd = (int)(intptr_t)joined(started(shares, NULL));
  CHECK(in("/a") && fcntl(fd, F_GETFD) == 0 && umask(022) == 0123);
  const pthread_t thread = started(has_own, NULL);
  pthread_barrier_wait(&barrier);
  CHECK(in("/a") && chdir("..") == 0 && umask(022) == 022);
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  CHECK(in("") && access("b/file", F_OK) == 0);
  joined(thread);
  printf("one's own\n");
  return 0;
}
