// MAP_GROWSDOWN: the mapping grows to where it is touched, within RLIMIT_STACK and down to the gap above its
// neighbour.
// expect: signal SEGV
#include <sys/mman.h>
#include <sys/resource.h>

#include "check.h"

enum { kPage = 4096, kRw = PROT_READ | PROT_WRITE, kAny = MAP_PRIVATE | MAP_ANONYMOUS };

static char* page;

// Natively the kernel's copies don't make such mappings grow on every version: only accesses of the program
// do here.
int main(void) {
  char* room = mmap(NULL, 32 << 20, PROT_NONE, kAny, -1, 0);
  CHECK(munmap(room, 32 << 20) == 0);
  char* top = room + (16 << 20);
  page = mmap(top, kPage, kRw, kAny | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
  CHECK(page == top);
  for (int i = 0; i <= 16; ++i) page[-i * kPage] = (char)i;
  page[-(4 << 20)] = 1;  // a page far below
  for (int i = 0; i <= 16; ++i) CHECK(page[-i * kPage] == i);
  CHECK(mprotect(page, kPage, PROT_READ | PROT_GROWSDOWN) == 0);  // all of it
  CHECK(mprotect(page, kPage, kRw | PROT_GROWSDOWN) == 0);
  CHECK_ERRNO((long)mmap(NULL, kPage, kRw, MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0), EINVAL);
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_STACK, &limit) == 0);
  limit.rlim_cur = 5 << 20;
  CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
  page[-(4 << 20) - 100 * kPage] = 2;
  printf("%p, and now beyond the limit\n", (void*)page);
  fflush(stdout);
  page[-(5 << 20)] = 3;
  return 0;
}
