// MAP_32BIT, hints, and non-PIE's low addresses beside each other.
// flags: -no-pie
#include <stdint.h>
#include <sys/mman.h>

#include "check.h"

static int low_data = 3;

int main(void) {
  CHECK((uintptr_t)&low_data < 1ul << 31);
  for (int i = 0; i < 20; ++i) {
    char* m = mmap(NULL, 100000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    CHECK(m != MAP_FAILED && (uintptr_t)m < 1ul << 31);
    m[99999] = 1;
    if (i % 7 == 0) printf("%p\n", (void*)m);
    if (i % 3 == 0) CHECK(munmap(m, 100000) == 0);
  }
  char* free_place = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(munmap(free_place, 4096) == 0);
  CHECK(mmap(free_place, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == free_place);
  return low_data - 3;
}
