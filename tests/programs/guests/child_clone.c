// clone and clone3 as fork, with what they can ask for of a process.
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "check.h"

static volatile pid_t in_parent, in_child;
static volatile int pidfd = -1;

static void on_signal(int signal) { (void)signal; }

static int on_own_stack(void* argument) { return *(int*)argument; }

static void expect(pid_t child, int wanted) {
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == wanted);
}

int main(void) {
  pid_t child =
      (pid_t)syscall(SYS_clone, SIGCHLD | CLONE_CHILD_SETTID | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID, 0,
                     &in_parent, &in_child, 0);
  if (child == 0) _exit(in_child == getpid() && in_parent == 0 ? 1 : 2);
  CHECK(in_parent == child && in_child == 0);
  expect(child, 1);

  child = (pid_t)syscall(SYS_clone, SIGCHLD | CLONE_PIDFD, 0, &pidfd, 0, 0);
  if (child == 0) _exit(pidfd == -1 ? 3 : 4);
  struct pollfd ended = {pidfd, POLLIN, 0};
  CHECK(pidfd >= 0 && poll(&ended, 1, -1) == 1);
  siginfo_t info = {0};
  CHECK(waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) == 0 && info.si_pid == child && info.si_status == 3);
  CHECK(close(pidfd) == 0);
  CHECK_ERRNO(syscall(SYS_clone, SIGCHLD | CLONE_PIDFD | CLONE_PARENT_SETTID, 0, &pidfd, 0, 0), EINVAL);

  CHECK(signal(SIGUSR1, on_signal) != SIG_ERR && signal(SIGUSR2, SIG_IGN) != SIG_ERR);
  struct clone_args arguments = {.flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD};
  child = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
  if (child == 0) {
    struct sigaction one, two;
    CHECK(sigaction(SIGUSR1, NULL, &one) == 0 && sigaction(SIGUSR2, NULL, &two) == 0);
    _exit(one.sa_handler == SIG_DFL && two.sa_handler == SIG_IGN ? 5 : 6);
  }
  expect(child, 5);
  arguments.exit_signal = 65;
  CHECK_ERRNO(syscall(SYS_clone3, &arguments, sizeof arguments), EINVAL);
  arguments.exit_signal = SIGCHLD;
  arguments.stack_size = 4096;
  CHECK_ERRNO(syscall(SYS_clone3, &arguments, sizeof arguments), EINVAL);

  static char stack[64 << 10];
  int wanted = 7;
  child = clone(on_own_stack, stack + sizeof stack, SIGCHLD, &wanted);
  CHECK(child > 0);
  expect(child, 7);
  // Shares memory, and the parent waits.
  wanted = 8;
  child = clone(on_own_stack, stack + sizeof stack, SIGCHLD | CLONE_VM | CLONE_VFORK, &wanted);
  CHECK(child > 0);
  expect(child, 8);
  // Waits, and shares nothing.
  in_child = 0;
  child = (pid_t)syscall(SYS_clone, SIGCHLD | CLONE_VFORK, 0, 0, 0, 0);
  if (child == 0) {
    in_child = 5;
    _exit(9);
  }
  CHECK(in_child == 0);
  expect(child, 9);
  printf("done by %d\n", getpid());
  return 0;
}
