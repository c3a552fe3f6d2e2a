// Every other page of 650 MB: more separate stretches of memory than an event of the log can hold.
#include <sys/mman.h>

#include "check.h"

int main(void) {
  const size_t count = 80000, stride = 8192;
  unsigned char* m =
      mmap(NULL, count * stride, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(m != MAP_FAILED);
  CHECK(madvise(m, count * stride, MADV_NOHUGEPAGE) == 0);
  for (size_t i = 0; i < count; ++i) m[i * stride] = (unsigned char)(i | 1);
  unsigned long sum = 0;
  for (size_t i = 0; i < count; ++i) sum += m[i * stride];
  printf("%lu\n", sum);
  return 0;
}
