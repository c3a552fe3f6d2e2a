// RLIMIT_AS and RLIMIT_DATA hold for the program's own memory.
#include <sys/mman.h>
#include <sys/resource.h>

#include "check.h"

enum { kRw = PROT_READ | PROT_WRITE, kAny = MAP_PRIVATE | MAP_ANONYMOUS };

static void limit_to(int resource, rlim_t bytes) {
  struct rlimit limit;
  CHECK(getrlimit(resource, &limit) == 0);
  limit.rlim_cur = bytes;
  CHECK(setrlimit(resource, &limit) == 0);
}

int main(void) {
  char* before = mmap(NULL, 1 << 20, kRw, kAny, -1, 0);
  limit_to(RLIMIT_AS, 200 << 20);
  CHECK(malloc(500 << 20) == NULL);
  CHECK_ERRNO((long)mmap(NULL, 500 << 20, PROT_NONE, kAny, -1, 0), ENOMEM);
  CHECK_ERRNO((long)mremap(before, 1 << 20, 300 << 20, MREMAP_MAYMOVE), ENOMEM);
  char* fits = mmap(NULL, 100 << 20, PROT_READ, kAny, -1, 0);
  CHECK(fits != MAP_FAILED);
  CHECK(mmap(fits, 100 << 20, PROT_READ, kAny | MAP_FIXED, -1, 0) == fits);  // takes the place of as much
  CHECK_ERRNO((long)mmap(NULL, 150 << 20, PROT_READ, kAny, -1, 0), ENOMEM);
  limit_to(RLIMIT_AS, RLIM_INFINITY);
  limit_to(RLIMIT_DATA, 50 << 20);
  CHECK_ERRNO((long)mmap(NULL, 60 << 20, kRw, kAny, -1, 0), ENOMEM);
  CHECK(mmap(NULL, 60 << 20, PROT_READ, kAny, -1, 0) != MAP_FAILED);  // no data
  CHECK(mmap(NULL, 60 << 20, kRw, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
  CHECK_ERRNO(mprotect(fits, 60 << 20, kRw), ENOMEM);
  void* end = sbrk(0);
  CHECK(sbrk(60 << 20) == (void*)-1 && sbrk(0) == end);
  CHECK(sbrk(4096) == end);
  puts("done");
  return 0;
}
