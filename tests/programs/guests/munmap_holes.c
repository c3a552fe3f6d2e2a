// Holes punched into mappings, some filled again; a touch of a hole is a fault.
// expect: signal SEGV
#include <sys/mman.h>

#include "check.h"

int main(void) {
  char* m = mmap(NULL, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(m, 1, 64 * 4096);
  for (int i = 1; i < 64; i += 3) CHECK(munmap(m + i * 4096, 4096) == 0);
  int sum = 0;
  for (int i = 0; i < 64; ++i)
    if (i % 3 != 1) sum += m[i * 4096];
  CHECK(sum == 43);
  CHECK(munmap(m + 4096, 4096) == 0);  // nothing there: no error
  CHECK(mmap(m + 4096, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
             0) == m + 4096);
  CHECK(m[4096] == 0 && m[0] == 1 && m[2 * 4096] == 1);
  CHECK_ERRNO((long)mmap(m, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
              EEXIST);
  CHECK_ERRNO(munmap(m + 5, 4096), EINVAL);
  CHECK_ERRNO(mprotect(m, 64 * 4096, PROT_READ), ENOMEM);
  puts("now the fault");
  fflush(stdout);
  return m[4 * 4096 + 17];
}
