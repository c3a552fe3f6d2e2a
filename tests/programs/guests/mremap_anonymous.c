// mremap of anonymous memory: grow in place, move, shrink, onto a fixed place.
#include <sys/mman.h>

#include "check.h"

int main(void) {
  char* a = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 4; ++i) memset(a + i * 4096, 'a' + i, 4096);
  char* wall = mmap(a + 4 * 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(wall != MAP_FAILED);
  if (wall == a + 4 * 4096) CHECK_ERRNO((long)mremap(a, 4 * 4096, 8 * 4096, 0), ENOMEM);
  char* b = mremap(a, 4 * 4096, 1000 * 4096, MREMAP_MAYMOVE);
  CHECK(b != MAP_FAILED && b[0] == 'a' && b[3 * 4096] == 'd' && b[999 * 4096] == 0);
  b[999 * 4096] = 'z';
  CHECK(mremap(b, 1000 * 4096, 2 * 4096, 0) == b && b[4096] == 'b');
  CHECK(mremap(b, 2 * 4096, 3 * 4096, 0) == b && b[2 * 4096] == 0);
  char* fixed = mmap(NULL, 10 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mremap(b, 3 * 4096, 3 * 4096, MREMAP_MAYMOVE | MREMAP_FIXED, fixed + 4096) == fixed + 4096);
  CHECK(fixed[4096] == 'a' && fixed[2 * 4096] == 'b');
  CHECK_ERRNO((long)mremap(b, 4096, 2 * 4096, MREMAP_MAYMOVE), EFAULT);
  CHECK_ERRNO((long)mremap(fixed + 1, 4096, 4096, 0), EINVAL);
  char* big = malloc(1 << 20);
  strcpy(big, "text");
  for (size_t size = 2 << 20; size <= 32 << 20; size *= 2) CHECK((big = realloc(big, size)) != NULL);
  CHECK(strcmp(big, "text") == 0 && big[(32 << 20) - 1] == 0);
  printf("%p %p %p\n", (void*)a, (void*)fixed, (void*)big);
  return 0;
}
