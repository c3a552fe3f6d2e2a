// A chain of processes, each the child of the one before; each says its number. args: how many
// All end when standard input does.
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char** words) {
  int left = count == 2 ? atoi(words[1]) : 0;
  for (;;) {
    printf("%d\n", (int)getpid());
    fflush(stdout);
    if (left-- == 0) break;
    const pid_t child = fork();
    if (child < 0) return 1;
    if (child == 0) continue;
    int status = 0;
    return waitpid(child, &status, 0) == child ? status : 1;
  }
  char letter;
  while (read(0, &letter, 1) > 0) continue;
  return 0;
}
