// What /proc says of a process whose first thread has ended while another goes on, to itself and to its
// parent: a zombie, without memory. Where the other executes a program all is as before.
// flags: -pthread
// native: output
#include <ctype.h>
#include <fcntl.h>
#include <sys/wait.h>

#include "threads.h"

static int go[2], back[2];

// The state, and how much memory there is.
static void tell(const char* who, const char* process, int own) {
  char path[100], text[4000];
  for (int task = 0; task < 2; ++task) {
    snprintf(path, sizeof path, task ? "/proc/%s/task/%s/stat" : "/proc/%s/stat", process, process);
    if (task && !isdigit(*process)) continue;
    const int fd = open(path, O_RDONLY);
    ssize_t size = read(fd, text, sizeof text - 1);
    CHECK(fd >= 0 && size > 0);
    text[size] = 0;
    close(fd);
    char state = 0;
    unsigned long memory = 1;
    CHECK(sscanf(strrchr(text, ')') + 1,
                 " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
                 "%*d %*u %lu",
                 &state, &memory) == 2);
    printf("%s: %s %c %d\n", who, task ? "task" : "stat", state == 'R' ? 'S' : state, memory != 0);
  }
  snprintf(path, sizeof path, "/proc/%s/status", process);
  FILE* const file = fopen(path, "r");
  CHECK(file);
  while (fgets(text, sizeof text, file)) {
    if (strncmp(text, "State:\tR", 8) == 0) strcpy(text, "State:\tS (sleeping)\n");
    if (strncmp(text, "State", 5) == 0 || (strncmp(text, "Threads", 7) == 0 && own))
      printf("%s: %s", who, text);
    if (strncmp(text, "VmSize", 6) == 0) printf("%s: VmSize\n", who);
  }
  fclose(file);
  snprintf(path, sizeof path, "/proc/%s/cmdline", process);
  const int fd = open(path, O_RDONLY);
  printf("%s: cmdline %d\n", who, read(fd, text, sizeof text) > 0);
  close(fd);
}

static void* second(void* first) {
  char byte, *arguments[] = {"sh", "-c", "echo; read line; exit 3", NULL};
  CHECK_OK(pthread_join(*(pthread_t*)first, NULL));
  char number[20];
  snprintf(number, sizeof number, "%d", getpid());
  // The kernel tells pthread_join() of the end before it is one.
  nap(20);
  tell("itself", "self", 1);
  tell("itself, by number", number, 1);
  fflush(stdout);
  CHECK(write(back[1], "x", 1) == 1 && read(go[0], &byte, 1) == 1);
  CHECK(dup2(go[0], 0) == 0 && dup2(back[1], 1) == 1);
  execv("/bin/sh", arguments);
  return NULL;
}

int main(void) {
  static pthread_t self;
  char byte, number[20];
  setvbuf(stdout, NULL, _IONBF, 0);
  CHECK(pipe(go) == 0 && pipe(back) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    self = pthread_self();
    started(second, &self);
    pthread_exit(NULL);
  }
  snprintf(number, sizeof number, "%d", child);
  CHECK(read(back[0], &byte, 1) == 1);
  tell("to its parent", number, 0);
  CHECK(write(go[1], "x", 1) == 1 && read(back[0], &byte, 1) == 1);
  tell("after execve", number, 0);
  CHECK(write(go[1], "\n", 1) == 1);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  printf("%#x\n", status);
  return 0;
}
