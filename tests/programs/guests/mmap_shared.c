// A shared mapping: written through memory and through write, read through both; anonymous sharing, memfd
// too.
#include <fcntl.h>
#include <sys/mman.h>

#include "check.h"

static void both_ways(int fd) {
  CHECK(ftruncate(fd, 8192) == 0);
  char* view = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  char* again = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 4096);
  CHECK(view != MAP_FAILED && again != MAP_FAILED);
  char text[10];
  memcpy(view + 4096, "by memory", 9);
  CHECK(pread(fd, text, 9, 4096) == 9 && memcmp(text, "by memory", 9) == 0);
  CHECK(memcmp(again, "by memory", 9) == 0);
  CHECK(pwrite(fd, "by write", 8, 4100) == 8);
  CHECK(memcmp(view + 4100, "by write", 8) == 0 && memcmp(again, "by mby write", 12) == 0);
  CHECK(msync(view, 8192, MS_SYNC) == 0);
  fwrite(again, 1, 12, stdout);
  putchar('\n');
  CHECK(munmap(view, 8192) == 0 && memcmp(again + 4, "by write", 8) == 0);
}

int main(void) {
  both_ways(open("shared", O_RDWR | O_CREAT, 0600));
  both_ways(memfd_create("memory", MFD_CLOEXEC));
  int* word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(word != MAP_FAILED && *word == 0);
  *word = 5;
  CHECK(*(volatile int*)word == 5);
  return 0;
}
