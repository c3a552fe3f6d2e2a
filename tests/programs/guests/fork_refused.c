// A child is not made. Where that is asked for, fork, vfork, posix_spawn, system and popen fail.
// record: --children=refuse --on-unsupported=continue
// says: clone (a child process): ENOSYS
#include <spawn.h>

#include "check.h"

int main(void) {
  CHECK(fork() == -1);
  printf("fork: %s\n", strerror(errno));
  pid_t child;
  char* arguments[] = {"true", NULL};
  CHECK(posix_spawn(&child, "/bin/true", NULL, NULL, arguments, NULL) != 0);
  CHECK(system("true") == -1 || system("true") != 0);
  CHECK(popen("true", "r") == NULL);
  return 0;
}
