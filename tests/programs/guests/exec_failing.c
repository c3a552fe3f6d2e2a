// execve that fails leaves the program as it was.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "check.h"

static void file(const char* name, const char* text, int mode) {
  const int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, mode);
  CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

int main(void) {
  char* none[] = {"x", NULL};
  CHECK_ERRNO(execve("./missing", none, NULL), ENOENT);
  CHECK_ERRNO(execve("/", none, NULL), EACCES);
  file("no_permission", "#!/bin/sh\n", 0600);
  CHECK_ERRNO(execve("./no_permission", none, NULL), EACCES);
  file("nonsense", "this is no program", 0700);
  CHECK_ERRNO(execve("./nonsense", none, NULL), ENOEXEC);
  file("lost", "#!/no/such/interpreter\n", 0700);
  CHECK_ERRNO(execve("./lost", none, NULL), ENOENT);
  file("loop", "#!./loop\n", 0700);
  CHECK_ERRNO(execve("./loop", none, NULL), ELOOP);
  file("cut", "\177ELF\2\1\1", 0700);
  CHECK_ERRNO(execve("./cut", none, NULL), ENOEXEC);
  CHECK_ERRNO(syscall(SYS_execve, 16, none, NULL), EFAULT);
  CHECK_ERRNO(syscall(SYS_execve, "/bin/true", 16, NULL), EFAULT);
  file("/proc/self/comm", "renamed", 0600);
  puts("still here");
  return 0;
}
