// Memory is a copy: what either stores the other does not see; mappings that come and go are its own.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"

enum { kPages = 2000 };

int main(void) {
  const size_t kSize = kPages * 4096UL;
  unsigned* const memory = mmap(NULL, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const int file = open("/proc/self/exe", O_RDONLY);
  char* const text = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  const char* const shown = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);  // nobody can change it
  CHECK(memory != MAP_FAILED && text != MAP_FAILED && shown != MAP_FAILED);
  for (size_t i = 0; i < kSize / 4; i += 64) memory[i] = (unsigned)i;
  text[100] = 'p';
  int ends[2];
  char token = 0;
  CHECK(pipe(ends) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    CHECK(read(ends[0], &token, 1) == 1);
    unsigned long sum = 0;
    for (size_t i = 0; i < kSize / 4; i += 64) {
      CHECK(memory[i] == (unsigned)i);
      memory[i] = 0;
      sum += i;
    }
    CHECK(text[100] == 'p' && shown[1] == 'E');
    text[100] = 'c';
    CHECK(munmap(memory, kSize / 2) == 0);
    char* const more = malloc(10 << 20);
    memset(more, 1, 10 << 20);
    CHECK(mprotect(text, 4096, PROT_NONE) == 0);
    printf("sum %lu\n", sum);
    return 44;
  }
  for (size_t i = 0; i < kSize / 4; i += 64) memory[i] = ~(unsigned)i;
  CHECK(write(ends[1], &token, 1) == 1);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 44);
  for (size_t i = 0; i < kSize / 4; i += 64) CHECK(memory[i] == ~(unsigned)i);
  CHECK(text[100] == 'p');
  printf("done by %d\n", getpid());
  return 0;
}
