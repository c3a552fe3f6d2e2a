// madvise: what DONTNEED makes zero (or brings back from the file), and advice that changes nothing.
#include <fcntl.h>
#include <sys/mman.h>

#include "check.h"

int main(void) {
  char* m = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(m, 'm', 8 * 4096);
  CHECK(madvise(m + 4096, 2 * 4096, MADV_DONTNEED) == 0);
  CHECK(m[0] == 'm' && m[4096] == 0 && m[3 * 4096 - 1] == 0 && m[3 * 4096] == 'm');
  CHECK(madvise(m + 4 * 4096, 4096, MADV_FREE) == 0);
  printf("%d\n", m[4 * 4096]);  // either, natively
  m[4 * 4096] = 'n';
  CHECK(m[4 * 4096] == 'n');
  static const int harmless[] = {MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTFORK};
  for (size_t i = 0; i < sizeof harmless / sizeof *harmless; ++i) CHECK(madvise(m, 4096, harmless[i]) == 0);
  CHECK(m[0] == 'm');
  CHECK_ERRNO(madvise(m + 1, 4096, MADV_DONTNEED), EINVAL);
  CHECK_ERRNO(madvise(m, 4096, 12345), EINVAL);
  const int fd = open("file", O_RDWR | O_CREAT, 0600);
  CHECK(ftruncate(fd, 4096) == 0 && pwrite(fd, "file", 4, 0) == 4);
  char* view = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  view[0] = 'X';
  CHECK(madvise(view, 4096, MADV_DONTNEED) == 0 && memcmp(view, "file", 4) == 0);
  unsigned char resident[8];
  CHECK(mincore(m, 8 * 4096, resident) == 0);
  for (int i = 0; i < 8; ++i) printf("%d", resident[i] & 1);
  putchar('\n');
  return 0;
}
