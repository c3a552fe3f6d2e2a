// What a descriptor does not allow, mprotect does not give either; nor what seals forbid.
#include <fcntl.h>
#include <sys/mman.h>

#include "check.h"

enum { kPage = 4096 };

int main(void) {
  const int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600), reader = open("file", O_RDONLY);
  CHECK(ftruncate(fd, 2 * kPage) == 0);
  CHECK_ERRNO((long)mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, reader, 0), EACCES);
  char* shared = mmap(NULL, kPage, PROT_READ, MAP_SHARED, reader, 0);
  CHECK(shared != MAP_FAILED);
  CHECK_ERRNO(mprotect(shared, kPage, PROT_READ | PROT_WRITE), EACCES);
  CHECK_ERRNO(mprotect(shared, kPage, PROT_WRITE), EACCES);
  CHECK(mprotect(shared, kPage, PROT_NONE) == 0 && mprotect(shared, kPage, PROT_READ) == 0);
  char* private = mmap(NULL, kPage, PROT_READ, MAP_PRIVATE, reader, 0);
  CHECK(mprotect(private, kPage, PROT_READ | PROT_WRITE) == 0);
  private[0] = 'x';
  char* both = mmap(NULL, kPage, PROT_READ, MAP_SHARED, fd, 0);
  CHECK(mprotect(both, kPage, PROT_READ | PROT_WRITE) == 0);
  both[0] = 'y';
  CHECK(shared[0] == 'y' && private[0] == 'x');
  // What lies before the mapping that is denied has been changed.
  char* range = mmap(NULL, 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mmap(range + kPage, kPage, PROT_READ, MAP_SHARED | MAP_FIXED, reader, 0) == range + kPage);
  CHECK_ERRNO(mprotect(range, 2 * kPage, PROT_READ | PROT_WRITE), EACCES);
  range[0] = 'z';

  const int sealed = memfd_create("sealed", MFD_ALLOW_SEALING);
  CHECK(ftruncate(sealed, kPage) == 0 && pwrite(sealed, "seal", 4, 0) == 4);
  char* writable = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, sealed, 0);
  CHECK(writable != MAP_FAILED);
  CHECK_ERRNO(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
  CHECK(munmap(writable, kPage) == 0);
  CHECK(fcntl(sealed, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_GROW) == 0);
  CHECK_ERRNO((long)mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, sealed, 0), EPERM);
  char* view = mmap(NULL, kPage, PROT_READ, MAP_SHARED, sealed, 0);
  CHECK(view != MAP_FAILED);
  CHECK_ERRNO(mprotect(view, kPage, PROT_READ | PROT_WRITE), EACCES);
  char* copy = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, sealed, 0);
  CHECK(copy != MAP_FAILED);
  copy[0] = 'S';
  CHECK_ERRNO(ftruncate(sealed, 2 * kPage), EPERM);
  printf("%.4s %.4s %c\n", view, copy, range[0]);
  return 0;
}
