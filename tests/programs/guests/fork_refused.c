// A child can't be made: fork, vfork, posix_spawn, system and popen fail, and the program goes on.
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
