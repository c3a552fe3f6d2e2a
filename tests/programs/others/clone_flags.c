// Makes one thread or process with flags that are rarely seen; see the script refused-clones.
// usage: clone_flags NAME
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../guests/check.h"

enum {
  kThread = CLONE_VM | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM,
};

static const struct {
  const char* name;
  uint64_t flags;
  int exit_signal;
} kCases[] = {
    {"parent", CLONE_PARENT, SIGCHLD},
    {"signal", 0, SIGUSR1},
    {"no-signal", 0, 0},
    {"files", CLONE_FILES, SIGCHLD},
    {"fs", CLONE_FS, SIGCHLD},
    {"sysvsem", CLONE_SYSVSEM, SIGCHLD},
    {"vm", CLONE_VM, SIGCHLD},
    {"vm-vfork-files", CLONE_VM | CLONE_VFORK | CLONE_FILES, SIGCHLD},
    {"sighand", CLONE_VM | CLONE_SIGHAND | CLONE_VFORK, SIGCHLD},
    {"newns", CLONE_NEWNS, SIGCHLD},
    {"newcgroup", CLONE_NEWCGROUP, SIGCHLD},
    {"newuts", CLONE_NEWUTS, SIGCHLD},
    {"newipc", CLONE_NEWIPC, SIGCHLD},
    {"newuser", CLONE_NEWUSER, SIGCHLD},
    {"newpid", CLONE_NEWPID, SIGCHLD},
    {"newnet", CLONE_NEWNET, SIGCHLD},
    {"newtime", CLONE_NEWTIME, SIGCHLD},
    {"setuid", 0, SIGCHLD},
    {"thread-files", kThread, 0},
    {"thread-vfork", kThread | CLONE_FILES | CLONE_VFORK, 0},
};

static char stack[65536] __attribute__((aligned(16)));

// On its own stack, which its parent may have, too.
static int child(void* is_thread) {
  if (is_thread) syscall(SYS_exit, 0);
  syscall(SYS_exit_group, 3);
  return 0;
}

int main(int count, char** arguments) {
  CHECK(count == 2 && signal(SIGUSR1, SIG_IGN) != SIG_ERR);
  for (size_t i = 0; i < sizeof kCases / sizeof *kCases; ++i) {
    if (strcmp(kCases[i].name, arguments[1]) != 0) continue;
    const int is_thread = (kCases[i].flags & CLONE_THREAD) != 0;
    if (strcmp(arguments[1], "setuid") == 0) CHECK(setuid(65534) == 0);
    printf("before\n");
    fflush(stdout);
    long made;
    if (kCases[i].flags & CLONE_NEWTIME) {  // its bit is one of the signal's in clone(2)
      struct clone_args wanted = {.flags = kCases[i].flags, .exit_signal = (uint64_t)kCases[i].exit_signal};
      made = syscall(SYS_clone3, &wanted, sizeof wanted);
      if (made == 0) child(NULL);
    } else {
      made = clone(child, stack + sizeof stack, (int)kCases[i].flags | kCases[i].exit_signal,
                   (void*)(intptr_t)is_thread);
    }
    CHECK(made > 0);
    if (!is_thread && !(kCases[i].flags & CLONE_PARENT)) {
      int status = 0;
      CHECK(waitpid((pid_t)made, &status, __WALL) == made && WIFEXITED(status) && WEXITSTATUS(status) == 3);
    }
    if (is_thread) usleep(20000);
    printf("after\n");
    return 0;
  }
  return 2;
}
