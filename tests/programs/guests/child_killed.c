// SIGKILL: what the child wrote before comes again.
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "check.h"

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  for (int way = 0; way < 3; ++way) {
    int ends[2], status = 0;
    char token = 0;
    CHECK(pipe(ends) == 0);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      printf("child %d is there\n", way);
      CHECK(write(ends[1], &token, 1) == 1);
      if (way == 1) kill(getpid(), SIGSTOP);
      for (volatile int i = 0;; ++i)
        if (way == 0) pause();
    }
    CHECK(read(ends[0], &token, 1) == 1);
    if (way == 1) CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    const int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
    CHECK(pidfd >= 0);
    CHECK((way == 2 ? (int)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) : kill(child, SIGKILL)) ==
          0);
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    printf("child %d is gone\n", way);
    close(pidfd);
  }
  return 0;
}
