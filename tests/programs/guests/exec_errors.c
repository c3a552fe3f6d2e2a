// What execve refuses, and that the program goes on then.
#include <fcntl.h>
#include <sys/stat.h>

#include "check.h"

static char *const list[] = {"program", NULL}, *const nothing[] = {NULL};
#define REFUSED(name, error) CHECK_ERRNO(execve(name, list, nothing), error)

static int file(const char* name, const char* text, mode_t mode) {
  const int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0700);
  CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && fchmod(fd, mode) == 0);
  return fd;
}

int main(void) {
  static char name[5000];
  memset(name, 'a', sizeof name - 1);
  REFUSED(name, ENAMETOOLONG);
  name[4095] = 0;
  REFUSED(name, ENAMETOOLONG);  // a component of it
  name[300] = 0;
  REFUSED(name, ENAMETOOLONG);
  CHECK_ERRNO(execveat(AT_FDCWD, name, list, nothing, 0), ENAMETOOLONG);
  const char* volatile nowhere = (const char*)8;  // not to be seen through by the compiler
  REFUSED(nowhere, EFAULT);
  REFUSED("", ENOENT);
  REFUSED("missing", ENOENT);
  REFUSED(".", EACCES);
  CHECK(symlink("loop", "loop") == 0);
  REFUSED("loop", ELOOP);

  // Busy: a script or a program that somebody can still write, through any descriptor.
  const int script = file("script", "#!/bin/true\n", 0700);
  REFUSED("./script", ETXTBSY);
  const int other = dup(script);
  CHECK(close(script) == 0);
  REFUSED("./script", ETXTBSY);
  CHECK(close(other) == 0);
  // Not for reading.
  const int reader = open("script", O_RDONLY);
  CHECK(reader >= 0 && chmod("script", 0600) == 0);
  REFUSED("./script", EACCES);
  REFUSED("./script/below", ENOTDIR);
  CHECK(close(reader) == 0);
  CHECK(close(file("text", "no program\n", 0700)) == 0);
  REFUSED("./text", ENOEXEC);
  CHECK(close(file("empty", "", 0700)) == 0);
  REFUSED("./empty", ENOEXEC);
  CHECK(close(file("lost", "#!/no/such/interpreter\n", 0700)) == 0);
  REFUSED("./lost", ENOENT);
  CHECK(close(file("again", "#!./again\n", 0700)) == 0);
  REFUSED("./again", ELOOP);
  CHECK_ERRNO(execveat(AT_FDCWD, "text", list, nothing, 0x10), EINVAL);
  CHECK_ERRNO(execveat(99, "text", list, nothing, 0), EBADF);
  // Its own program can't be written.
  CHECK_ERRNO(open("/proc/self/exe", O_WRONLY), ETXTBSY);
  static char long_text[200000];
  memset(long_text, 'x', sizeof long_text - 1);
  char* const many[] = {"program", long_text, NULL};
  CHECK_ERRNO(execve("/bin/true", many, nothing), E2BIG);
  return 0;
}
