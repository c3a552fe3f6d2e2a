// SIGCHLD: with a handler, blocked, ignored, with SA_NOCLDWAIT and SA_NOCLDSTOP, read from a descriptor.
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "check.h"

static volatile sig_atomic_t count, last_pid, last_code, last_status;

static void on_child(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  ++count;
  last_pid = info->si_pid;
  last_code = info->si_code;
  last_status = info->si_status;
}

static pid_t child_that_exits(int status) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) _exit(status);
  return child;
}

static void catch_with(int flags) {
  struct sigaction action = {.sa_sigaction = on_child, .sa_flags = SA_SIGINFO | SA_RESTART | flags};
  CHECK(sigaction(SIGCHLD, &action, NULL) == 0);
}

int main(void) {
  int status = 0;
  catch_with(0);
  pid_t child = child_that_exits(4);
  while (count == 0) usleep(100);
  CHECK(last_pid == child && last_code == CLD_EXITED && last_status == 4);
  CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 4);

  // wait() is restarted.
  child = child_that_exits(6);
  CHECK(wait(&status) == child && WEXITSTATUS(status) == 6);
  while (count < 2) usleep(100);

  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
  child = child_that_exits(8);
  siginfo_t info;
  CHECK(sigwaitinfo(&set, &info) == SIGCHLD && info.si_pid == child && info.si_status == 8);
  CHECK(count == 2 && wait(NULL) == child);
  const int descriptor = signalfd(-1, &set, SFD_CLOEXEC);
  CHECK(descriptor >= 0);
  child = child_that_exits(10);
  struct signalfd_siginfo read_info;
  CHECK(read(descriptor, &read_info, sizeof read_info) == sizeof read_info);
  CHECK(read_info.ssi_pid == (unsigned)child && read_info.ssi_status == 10);
  CHECK(wait(NULL) == child);
  close(descriptor);
  CHECK(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0);

  catch_with(SA_NOCLDSTOP);
  count = 0;
  child = fork();
  if (child == 0)
    for (;;) pause();
  CHECK(kill(child, SIGSTOP) == 0 && waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
  CHECK(count == 0);
  CHECK(kill(child, SIGCONT) == 0 && kill(child, SIGTERM) == 0);
  CHECK(waitpid(child, &status, 0) == child && WTERMSIG(status) == SIGTERM);

  // Nothing is left of them.
  CHECK(signal(SIGCHLD, SIG_IGN) != SIG_ERR);
  child_that_exits(1);
  CHECK_ERRNO(wait(NULL), ECHILD);
  catch_with(SA_NOCLDWAIT);
  child_that_exits(1);
  CHECK_ERRNO(wait(NULL), ECHILD);
  printf("done by %d\n", getpid());
  return 0;
}
