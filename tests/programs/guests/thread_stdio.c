// Threads that print lines to the same stream, and to standard output: no line is torn. Their order differs.
// flags: -pthread
// native: status
#include "threads.h"

enum { kThreads = 4, kLines = 50 };
static FILE* file;
static void* print(void* argument) {
  const int me = (int)(intptr_t)argument;
  for (int i = 0; i < kLines; ++i) {
    fprintf(file, "%d %d %.*s\n", me, i, i, "..................................................");
    printf("%d %d\n", me, i);
    if (i % 16 == me) CHECK(fflush(file) == 0);
    if (i % 10 == 0) {
      flockfile(stdout);
      putchar_unlocked('('), putchar_unlocked('0' + me), putchar_unlocked(')'), putchar_unlocked('\n');
      funlockfile(stdout);
    }
  }
  return NULL;
}

int main(void) {
  file = fopen("lines", "w+");
  CHECK(file);
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(print, (void*)i);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  rewind(file);
  int next[kThreads] = {0}, me, i;
  char line[100], dots[60];
  while (fgets(line, sizeof line, file)) {
    dots[0] = 0;
    CHECK(sscanf(line, "%d %d %59s", &me, &i, dots) >= 2 && me >= 0 && me < kThreads);
    CHECK(i == next[me]++ && (int)strlen(dots) == i);
  }
  for (int t = 0; t < kThreads; ++t) CHECK(next[t] == kLines);
  return 0;
}
