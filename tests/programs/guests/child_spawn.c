// Children that share the parent's memory until their execve: vfork, posix_spawn, system, popen. What such a
// child has stored is the parent's, as glibc counts on to tell why an execve failed.
#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"

extern char** environ;
static volatile int stored;
static int large[1 << 16];

int main(int argc, char** argv) {
  if (argc == 2) {
    printf("%s by %d\n", argv[1], getppid());
    return 5;
  }
  setvbuf(stdout, NULL, _IONBF, 0);
  int status = 0;
  volatile int on_stack = 1;
  int* const mapped = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mapped != MAP_FAILED);
  mapped[5000] = 3;
  pid_t child = vfork();
  if (child == 0) {
    stored = getpid();
    on_stack = 2;
    mapped[5000]++;
    mapped[100000] = 77;
    for (size_t i = 0; i < sizeof large / sizeof *large; i += 100) large[i] = (int)i;
    _exit(3);
  }
  CHECK(stored == child && on_stack == 2 && mapped[5000] == 4 && mapped[100000] == 77);
  for (size_t i = 0; i < sizeof large / sizeof *large; ++i) CHECK(large[i] == (i % 100 == 0 ? (int)i : 0));
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 3);

  child = vfork();
  if (child == 0) {
    stored = 11;
    execl("/proc/self/exe", "child", "vfork", NULL);
    _exit(4);
  }
  CHECK(stored == 11);
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 5);

  char* arguments[] = {argv[0], "spawned", NULL};
  posix_spawn_file_actions_t actions;
  CHECK(posix_spawn_file_actions_init(&actions) == 0);
  CHECK(posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) == 0);
  CHECK(posix_spawn(&child, argv[0], &actions, NULL, arguments, environ) == 0);
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 5);
  CHECK(posix_spawn(&child, "/nonexistent", NULL, NULL, arguments, environ) == ENOENT);
  CHECK(posix_spawn(&child, "/etc/passwd", NULL, NULL, arguments, environ) == EACCES);
  CHECK(posix_spawnp(&child, "no-such-program", NULL, NULL, arguments, environ) == ENOENT);
  CHECK(waitpid(-1, &status, 0) == -1 && errno == ECHILD);

  CHECK(system("exit 7") == 7 << 8);
  CHECK(WTERMSIG(system("kill -TERM $$")) == 15);
  FILE* const pipe = popen("echo one; echo two", "r");
  CHECK(pipe);
  char line[64];
  for (int i = 0; fgets(line, sizeof line, pipe); ++i) printf("%d: %s", i, line);
  CHECK(pclose(pipe) == 0);
  return 0;
}
