// Children end in every way, and are waited for in every way.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "check.h"

static pid_t child_that_exits(int status) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) _exit(status);
  return child;
}

static pid_t child_that_waits(void) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0)
    for (;;) pause();
  return child;
}

int main(void) {
  int status = 0;
  for (int wanted = 0; wanted < 256; wanted += 51) {
    const pid_t child = child_that_exits(wanted);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == wanted);
    printf("%d ended with %d\n", child, wanted);
  }
  const int deadly[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGALRM, SIGPIPE, SIGRTMIN + 3};
  for (size_t i = 0; i < sizeof deadly / sizeof *deadly; ++i) {
    const pid_t child = child_that_waits();
    CHECK(kill(child, deadly[i]) == 0);
    CHECK(wait(&status) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == deadly[i]);
  }
  // While it computes.
  for (int i = 0; i < 5; ++i) {
    const pid_t computing = fork();
    CHECK(computing >= 0);
    if (computing == 0)
      for (volatile int n = 0;; ++n) continue;
    usleep(5000);
    CHECK(kill(computing, SIGTERM) == 0);
    CHECK(wait(&status) == computing && WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
  }
  // By its own doing.
  pid_t child = fork();
  if (child == 0) abort();
  CHECK(waitpid(-1, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  child = fork();
  if (child == 0) *(volatile int*)8 = 1;
  CHECK(waitpid(0, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);

  // Not reaped, then reaped late.
  siginfo_t info = {0};
  child = child_that_exits(9);
  CHECK(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0);
  CHECK(info.si_pid == child && info.si_code == CLD_EXITED && info.si_status == 9 &&
        info.si_signo == SIGCHLD);
  CHECK(kill(child, 0) == 0);
  memset(&info, 0, sizeof info);
  CHECK(waitid(P_ALL, 0, &info, WEXITED) == 0 && info.si_pid == child);
  CHECK_ERRNO(kill(child, 0), ESRCH);
  CHECK_ERRNO(waitpid(child, NULL, 0), ECHILD);

  child = child_that_waits();
  CHECK(waitpid(child, &status, WNOHANG) == 0);
  CHECK(kill(child, SIGSTOP) == 0);
  CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
  CHECK(kill(child, SIGCONT) == 0);
  CHECK(waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status));
  CHECK(kill(child, SIGTERM) == 0);
  struct rusage usage;
  memset(&usage, 0xff, sizeof usage);
  CHECK(wait4(child, &status, 0, &usage) == child);
  CHECK(usage.ru_utime.tv_sec >= 0 && usage.ru_maxrss >= 0);
  printf("used %ld us, %ld KiB\n", (long)usage.ru_utime.tv_usec, usage.ru_maxrss);
  CHECK_ERRNO(wait(NULL), ECHILD);
  return 0;
}
