// Memory calls over a hole: what lies before it is done all the same, and the answer is ENOMEM.
#include <sys/mman.h>
#include <sys/syscall.h>

#include "check.h"

enum { kPage = 4096 };

// A page, a hole, a page; holes around them, too.
static char* pages(int prot) {
  const int any = MAP_PRIVATE | MAP_ANONYMOUS;
  char* room = mmap(NULL, 7 * kPage, PROT_NONE, any, -1, 0);
  CHECK(room != MAP_FAILED && munmap(room, 7 * kPage) == 0);
  CHECK(mmap(room + 2 * kPage, kPage, prot, any | MAP_FIXED, -1, 0) == room + 2 * kPage);
  CHECK(mmap(room + 4 * kPage, kPage, prot, any | MAP_FIXED, -1, 0) == room + 4 * kPage);
  return room + 2 * kPage;
}

static void protections(void) {
  char* m = pages(PROT_READ);
  CHECK_ERRNO(mprotect(m, 3 * kPage, PROT_READ | PROT_WRITE), ENOMEM);
  m[0] = 1;  // the first page is writable now; the one behind the hole is not
  char one = 1;
  int ends[2];
  CHECK(pipe(ends) == 0 && write(ends[1], &one, 1) == 1);
  CHECK_ERRNO(read(ends[0], m + 2 * kPage, 1), EFAULT);
  CHECK_ERRNO(mprotect(m + kPage, 2 * kPage, PROT_READ | PROT_WRITE), ENOMEM);
  CHECK_ERRNO(read(ends[0], m + 2 * kPage, 1), EFAULT);
  CHECK_ERRNO(mprotect(m, kPage, PROT_READ | PROT_GROWSDOWN), EINVAL);
  CHECK_ERRNO(mprotect(m, kPage, PROT_READ | 0x100), EINVAL);
  CHECK_ERRNO(mprotect(m + 1, kPage, PROT_READ), EINVAL);
  CHECK(mprotect(m + 1 - 1, 0, PROT_READ) == 0);
}

static void advice(void) {
  char* m = pages(PROT_READ | PROT_WRITE);
  m[0] = m[2 * kPage] = 1;
  CHECK_ERRNO(madvise(m - kPage, 4 * kPage, MADV_DONTNEED), ENOMEM);
  CHECK(m[0] == 0 && m[2 * kPage] == 0);  // both: advice goes on behind a hole
  CHECK_ERRNO(madvise(m + kPage, kPage, MADV_NORMAL), ENOMEM);
  CHECK_ERRNO(madvise(m, 3 * kPage, MADV_FREE), ENOMEM);
  CHECK_ERRNO(madvise(m, (size_t)-1, MADV_DONTNEED), EINVAL);
  CHECK_ERRNO(msync(m, 3 * kPage, MS_ASYNC), ENOMEM);
  CHECK_ERRNO(msync(m + kPage, kPage, MS_ASYNC), ENOMEM);
  CHECK(msync(m, kPage, MS_SYNC) == 0 && msync(m, 0, MS_ASYNC) == 0);
  CHECK_ERRNO(msync(m, kPage, 8), EINVAL);
  CHECK_ERRNO(msync(m, kPage, MS_ASYNC | MS_SYNC), EINVAL);
  unsigned char resident[3] = {9, 9, 9};
  m[0] = 1;
  CHECK_ERRNO(mincore(m, 3 * kPage, resident), ENOMEM);
  CHECK(resident[0] == 1 && resident[1] == 9);
  CHECK_ERRNO(mincore(m + kPage, kPage, resident), ENOMEM);
  CHECK_ERRNO(mincore(m + 1, kPage, resident), EINVAL);
}

static void locks(void) {
  char* m = pages(PROT_READ | PROT_WRITE);
  CHECK_ERRNO(mlock(m, 3 * kPage), ENOMEM);
  CHECK_ERRNO(madvise(m, kPage, MADV_DONTNEED), EINVAL);     // locked
  CHECK(madvise(m + 2 * kPage, kPage, MADV_DONTNEED) == 0);  // not reached
  CHECK_ERRNO(madvise(m, kPage, MADV_FREE), EINVAL);
  CHECK_ERRNO(madvise(m, kPage, MADV_COLD), EINVAL);
  CHECK_ERRNO(msync(m, kPage, MS_INVALIDATE), EBUSY);
  CHECK_ERRNO(munlock(m, 3 * kPage), ENOMEM);
  CHECK(madvise(m, kPage, MADV_DONTNEED) == 0);
  CHECK_ERRNO(munlock(m + kPage, kPage), ENOMEM);
  CHECK_ERRNO(syscall(SYS_mlock2, m + kPage, kPage, 1), ENOMEM);
  CHECK_ERRNO(syscall(SYS_mlock2, m, kPage, 2), EINVAL);
  CHECK(syscall(SYS_mlock2, m, kPage, 1) == 0 && munlock(m, kPage) == 0);
  char* none = pages(PROT_NONE);
  CHECK_ERRNO(mlock(none, kPage), ENOMEM);  // can't be brought in
  CHECK(munlock(none, kPage) == 0);
  CHECK_ERRNO(mlockall(0), EINVAL);
  CHECK_ERRNO(mlockall(MCL_ONFAULT), EINVAL);
  CHECK(munlockall() == 0);
}

static void unmapping(void) {
  char* m = pages(PROT_READ | PROT_WRITE);
  CHECK(munmap(m, 3 * kPage) == 0);
  CHECK(munmap(m, 3 * kPage) == 0);
  CHECK(munmap((void*)0x123000, kPage) == 0);
  CHECK_ERRNO(munmap((void*)0x7ffffffff000, kPage), EINVAL);
  CHECK_ERRNO(munmap(m, 0), EINVAL);
  m = pages(PROT_READ | PROT_WRITE);
  CHECK_ERRNO((long)mremap(m, 3 * kPage, 4 * kPage, MREMAP_MAYMOVE), EFAULT);
  CHECK_ERRNO((long)mremap(m + kPage, kPage, 2 * kPage, MREMAP_MAYMOVE), EFAULT);
  CHECK(mremap(m, 3 * kPage, kPage, 0) == m);
  CHECK_ERRNO(msync(m + 2 * kPage, kPage, MS_ASYNC), ENOMEM);  // gone
}

int main(void) {
  protections();
  advice();
  locks();
  unmapping();
  puts("done");
  return 0;
}
