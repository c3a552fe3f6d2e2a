// process_vm_readv and process_vm_writev on the program itself: whole, in parts, over holes and protections.
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "check.h"

enum { kPage = 4096 };

int main(void) {
  char source[3000], target[3000];
  for (int i = 0; i < (int)sizeof source; ++i) source[i] = (char)(i * 7);
  struct iovec local[] = {{target, 10}, {target + 10, 0}, {target + 10, 2990}};
  struct iovec remote[] = {{source, 1000}, {source + 1000, 2000}};
  CHECK(process_vm_readv(getpid(), local, 3, remote, 2, 0) == 3000);
  CHECK(memcmp(source, target, sizeof source) == 0);
  memset(source, 1, sizeof source);
  CHECK(process_vm_writev(getpid(), local, 3, remote, 2, 0) == 3000);
  CHECK(source[5] == 35 && memcmp(source, target, sizeof source) == 0);

  // The shorter side says how much.
  CHECK(process_vm_readv(getpid(), local, 1, remote, 2, 0) == 10);
  CHECK(process_vm_readv(getpid(), local, 0, remote, 2, 0) == 0);
  CHECK(process_vm_readv(getpid(), local, 3, remote, 0, 0) == 0);

  // As far as the memory goes.
  char* pages = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(pages != MAP_FAILED);
  memset(pages, 5, 4 * kPage);
  CHECK(munmap(pages + 2 * kPage, kPage) == 0);
  static char wide[4 * kPage];
  struct iovec over_hole = {pages + 100, 4 * kPage - 100}, to_wide = {wide, sizeof wide};
  CHECK(process_vm_readv(getpid(), &to_wide, 1, &over_hole, 1, 0) == 2 * kPage - 100);
  CHECK(wide[2 * kPage - 101] == 5 && wide[2 * kPage - 100] == 0);
  CHECK(mprotect(pages + kPage, kPage, PROT_READ) == 0);
  CHECK(process_vm_writev(getpid(), &to_wide, 1, &over_hole, 1, 0) == kPage - 100);
  struct iovec hole = {pages + 2 * kPage, 10};
  CHECK_ERRNO(process_vm_readv(getpid(), &to_wide, 1, &hole, 1, 0), EFAULT);
  CHECK_ERRNO(process_vm_readv(getpid(), &hole, 1, &to_wide, 1, 0), EFAULT);

  CHECK_ERRNO(process_vm_readv(getpid(), local, 3, remote, 2, 1), EINVAL);
  CHECK_ERRNO(process_vm_readv(getpid(), local, 1025, remote, 2, 0), EINVAL);
  CHECK_ERRNO(process_vm_readv(getpid(), (void*)8, 1, remote, 2, 0), EFAULT);
  CHECK_ERRNO(process_vm_readv(0x3fffffff, local, 3, remote, 2, 0), ESRCH);
  CHECK_ERRNO(process_vm_writev(0x3fffffff, local, 3, remote, 2, 0), ESRCH);
  CHECK_ERRNO(process_vm_writev(0x3fffffff, &hole, 1, remote, 2, 0), ESRCH);
  printf("copied\n");
  return 0;
}
