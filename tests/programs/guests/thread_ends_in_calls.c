// A process ends, or executes a program, while its threads are in calls that wait: a read, a futex, a wait
// for a child, a sleep, an accept and a poll. By its first thread or another one; by exit_group, SIGKILL, a
// fault.
// flags: -pthread
// native: output
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "threads.h"

enum { kCalls = 6, kEnds = 4 };
static int hold[2], listening;
static atomic_int tids[kCalls];
static atomic_uint word;

static void wait_in_call(int call) {
  char byte;
  struct pollfd polled = {hold[0], POLLIN, 0};
  switch (call) {
    case 0:
      read(hold[0], &byte, 1);
      return;
    case 1:
      futex(&word, FUTEX_WAIT, 0, NULL, NULL, 0);
      return;
    case 2:
      wait(NULL);
      return;
    case 3:
      sleep(1000);
      return;
    case 4:
      accept(listening, NULL, NULL);
      return;
    default:
      poll(&polled, 1, -1);
  }
}

static void* waiting(void* number) {
  const int call = (int)(intptr_t)number;
  atomic_store(&tids[call], gettid());
  for (;;) wait_in_call(call);
  return NULL;
}

static void* end(void* way) {
  char* arguments[] = {"sh", "-c", "echo executed; exit 7", NULL};
  for (int i = 0; i < kCalls; ++i) until_asleep(until_set(&tids[i]));
  switch ((intptr_t)way) {
    case 0:
      _exit(5);
    case 1:
      kill(getpid(), SIGKILL);
      break;
    case 2:
      *(volatile int*)16 = 1;
      break;
    default:
      execv("/bin/sh", arguments);
  }
  return NULL;
}

// In a process of its own, whose child lives until nobody holds the pipe's other end.
static void child_main(int way, int by_other) {
  CHECK(pipe(hold) == 0 && fcntl(hold[1], F_SETFD, FD_CLOEXEC) == 0);
  listening = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK(listening >= 0 && bind(listening, &(struct sockaddr){AF_UNIX, ""}, sizeof(sa_family_t)) == 0);
  CHECK(listen(listening, 1) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    char byte;
    close(hold[1]);
    _exit(read(hold[0], &byte, 1) == 0 ? 0 : 1);
  }
  for (intptr_t i = 0; i < kCalls; ++i) started(waiting, (void*)i);
  if (by_other)
    joined(started(end, (void*)(intptr_t)way));
  else
    end((void*)(intptr_t)way);
}

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  for (int by_other = 0; by_other < 2; ++by_other)
    for (int way = 0; way < kEnds; ++way) {
      const pid_t child = fork();
      CHECK(child >= 0);
      if (child == 0) child_main(way, by_other);
      int status = 0;
      CHECK(waitpid(child, &status, 0) == child);
      printf("way %d: %s %d\n", way, WIFEXITED(status) ? "exit" : "signal",
             WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    }
  return 0;
}
