// Parent and children write to the same streams in turn; the replay has it in the order in which it came.
#include <fcntl.h>
#include <sys/wait.h>

#include "check.h"

enum { kTurns = 30 };

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  int down[2], up[2];
  char token = 0;
  CHECK(pipe(down) == 0 && pipe(up) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  for (int turn = 0; turn < kTurns; ++turn) {
    if (child == 0) {
      CHECK(read(down[0], &token, 1) == 1);
      printf("child %d\n", turn);
      if (turn % 3 == 0) fprintf(stderr, "child's error %d\n", turn);
      CHECK(write(up[1], &token, 1) == 1);
    } else {
      printf("parent %d\n", turn);
      CHECK(write(down[1], &token, 1) == 1);
      CHECK(read(up[0], &token, 1) == 1);
      if (turn % 4 == 0) fprintf(stderr, "parent's error %d\n", turn);
    }
  }
  if (child == 0) return 0;
  CHECK(wait(NULL) == child);
  // A position of its own in the same file, if it is one.
  if (fork() == 0) {
    const int again = open("/proc/self/fd/1", O_WRONLY);
    CHECK(again >= 0);
    if (lseek(again, 7, SEEK_SET) == 7) CHECK(write(again, "CHILD", 5) == 5);
    _exit(0);
  }
  CHECK(wait(NULL) > 0);
  CHECK(system("echo from a program; ls -d / | sed s,/,slash,") == 0);
  printf("end\n");
  return 0;
}
