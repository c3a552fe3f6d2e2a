// Children run other programs: a chain of them, scripts, and one that can't be run; descriptors that execve
// closes.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "check.h"

extern char** environ;

static int run(char* const* arguments, char* const* environment) {
  int status = 0;
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    execve(arguments[0], arguments, environment);
    _exit(100 + errno);
  }
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
  return WEXITSTATUS(status);
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IONBF, 0);
  if (argc == 2) {
    const int left = atoi(argv[1]);
    printf("%d left, %d of %d, %s\n", left, getpid(), getppid(), getenv("GREETING"));
    if (left == 0) return 0;
    char text[16];
    snprintf(text, sizeof text, "%d", left - 1);
    char* next[] = {argv[0], text, NULL};
    // One in the place of this, or as a child of it.
    if (left % 2 == 0) return execve(argv[0], next, environ);
    return run(next, environ) + 1;
  }
  char* environment[] = {"GREETING=hello", NULL};
  char* first[] = {argv[0], "6", NULL};
  CHECK(run(first, environment) == 3);
  char* absent[] = {"/nonexistent", NULL};
  CHECK(run(absent, environment) == 100 + ENOENT);
  const int script = open("script", O_CREAT | O_WRONLY, 0755);
  CHECK(script >= 0 && dprintf(script, "#!/bin/sh\necho script $1 $$\nexit 12\n") > 0 && close(script) == 0);
  char* with_script[] = {"./script", "argument", NULL};
  CHECK(run(with_script, environment) == 12);

  const int kept = open("/dev/null", O_RDONLY), closed = open("/dev/null", O_RDONLY | O_CLOEXEC);
  char command[100];
  snprintf(command, sizeof command, "[ -e /proc/self/fd/%d ] && ! [ -e /proc/self/fd/%d ]", kept, closed);
  char* look[] = {"/bin/sh", "-c", command, NULL};
  CHECK(run(look, environment) == 0);
  return 0;
}
