// Process groups and sessions: signals to all of a group, job control, waiting for a group.
#include <signal.h>
#include <sys/wait.h>

#include "check.h"

enum { kMembers = 4 };

static volatile sig_atomic_t caught;
static void on_signal(int signal) { caught = signal; }

int main(void) {
  int status = 0;
  pid_t members[kMembers];
  for (int i = 0; i < kMembers; ++i) {
    members[i] = fork();
    CHECK(members[i] >= 0);
    if (members[i] == 0)
      for (;;) pause();
    CHECK(setpgid(members[i], members[0]) == 0);
    CHECK(getpgid(members[i]) == members[0]);
  }
  CHECK(killpg(members[0], SIGSTOP) == 0);
  for (int i = 0; i < kMembers; ++i)
    CHECK(waitpid(-members[0], &status, WUNTRACED) > 0 && WIFSTOPPED(status));
  CHECK(kill(-members[0], SIGCONT) == 0);
  for (int i = 0; i < kMembers; ++i)
    CHECK(waitpid(-members[0], &status, WCONTINUED) > 0 && WIFCONTINUED(status));
  CHECK(kill(-members[0], SIGTERM) == 0);
  for (int i = 0; i < kMembers; ++i) {
    const pid_t ended = waitpid(-members[0], &status, 0);
    CHECK(ended > 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
  }
  CHECK_ERRNO(waitpid(-members[0], NULL, 0), ECHILD);
  CHECK_ERRNO(killpg(members[0], 0), ESRCH);

  // A session of its own, and a group that has parent and child in it.
  pid_t child = fork();
  if (child == 0) {
    CHECK(setsid() == getpid() && getsid(0) == getpid() && getpgrp() == getpid());
    CHECK(signal(SIGUSR1, on_signal) != SIG_ERR);
    const pid_t own = fork();
    if (own == 0) {
      CHECK(getsid(0) == getppid());
      for (;;) pause();  // dies of it: its handler is the parent's copy
    }
    usleep(20000);
    CHECK(kill(own, SIGTERM) == 0 && waitpid(own, &status, 0) == own);
    CHECK(kill(0, SIGUSR1) == 0 && caught == SIGUSR1);
    _exit(21);
  }
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 21);
  printf("done by %d\n", getpid());
  return 0;
}
