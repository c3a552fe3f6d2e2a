// Programs that are started by a descriptor: one that exec closes, a memory file, a file that is gone.
// expect-output: started by a descriptor that exec closes
// expect-output: started from memory
// expect-output: started from a file that is gone
// expect-output: started by its link
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "check.h"

static void copy(int from, int to) {
  char buffer[65536];
  ssize_t n;
  while ((n = read(from, buffer, sizeof buffer)) > 0) CHECK(write(to, buffer, (size_t)n) == n);
  CHECK(n == 0);
}

// The program is this file still, whatever has become of its name.
static void check_itself(void) {
  struct stat link, opened;
  const int fd = open("/proc/self/exe", O_RDONLY);
  char head[4], name[200];
  CHECK(fd >= 0 && read(fd, head, 4) == 4 && memcmp(head, "\177ELF", 4) == 0);
  CHECK(stat("/proc/self/exe", &link) == 0 && fstat(fd, &opened) == 0 && link.st_ino == opened.st_ino);
  CHECK(readlink("/proc/self/exe", name, sizeof name) > 0);
  CHECK(close(fd) == 0);
}

int main(int count, char** arguments) {
  static const char* const kWays[] = {"a descriptor that exec closes", "memory", "a file that is gone",
                                      "its link"};
  const int way = count > 1 ? atoi(arguments[1]) : 0;
  if (way > 0) {
    printf("started %s %s\n", way == 1 || way == 4 ? "by" : "from", kWays[way - 1]);
    fflush(stdout);
    check_itself();
    CHECK(fcntl(3, F_GETFD) == -1);  // exec has closed what it was to close
  }
  // What it was started with: nothing more than the standard descriptors, natively, recorded or by a test's
  // driver.
  for (int fd = 3; way == 0 && fd < 256; ++fd) close(fd);
  char next[12];
  snprintf(next, sizeof next, "%d", way + 1);
  char *const list[] = {"program", next, NULL}, *const nothing[] = {NULL};
  const int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  CHECK(self >= 0);
  if (way == 0) {
    // No interpreter could open a script by a descriptor that is closed then.
    const int script = open("script", O_RDWR | O_CREAT | O_CLOEXEC, 0700);
    CHECK(write(script, "#!/bin/true\n", 12) == 12 && close(script) == 0);
    const int again = open("script", O_RDONLY | O_CLOEXEC);
    CHECK(again >= 0);
    CHECK_ERRNO(fexecve(again, list, nothing), ENOENT);
    CHECK(close(again) == 0);
    fexecve(self, list, nothing);
  } else if (way == 1) {
    const int memory = memfd_create("program", MFD_CLOEXEC);
    copy(self, memory);
    fexecve(memory, list, nothing);
  } else if (way == 2) {
    const int file = open("copy", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
    copy(self, file);
    CHECK_ERRNO(execve("copy", list, nothing), ETXTBSY);
    CHECK(close(file) == 0);
    const int gone = open("copy", O_RDONLY | O_CLOEXEC);
    CHECK(gone >= 0 && unlink("copy") == 0);
    fexecve(gone, list, nothing);
  } else if (way == 3) {
    execve("/proc/self/exe", list, nothing);
  } else {
    return 0;
  }
  CHECK(0);
}
