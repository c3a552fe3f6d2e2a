// execve of a script, and of a chain of scripts; of a shell that makes more of it.
// expect: exit 5
// expect-output: from sh: one two words
#include <fcntl.h>
#include <sys/stat.h>

#include "check.h"

static void script(const char* name, const char* text) {
  const int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0700);
  CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

int main(void) {
  script("inner", "#!/bin/sh -u\necho \"from sh: $3 $4\"\necho $0 $$\nexit 5\n");
  script("outer", "#! ./inner extra\n");
  execl("./outer", "ignored", "one two", "words", NULL);
  CHECK(!"execl returned");
}
