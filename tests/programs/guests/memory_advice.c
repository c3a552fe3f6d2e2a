// What memory calls answer by the kind of memory: madvise, mremap's flags, huge pages.
#include <fcntl.h>
#include <sys/mman.h>

#include "check.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

enum { kPage = 4096, kRw = PROT_READ | PROT_WRITE };

static char *private_memory, *shared_memory, *private_file, *shared_file;

static void advice(void) {
  char* none = mmap(NULL, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char* reads = mmap(NULL, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK_ERRNO(madvise(none, kPage, MADV_POPULATE_READ), EINVAL);
  CHECK_ERRNO(madvise(none, kPage, MADV_POPULATE_WRITE), EINVAL);
  CHECK_ERRNO(madvise(reads, kPage, MADV_POPULATE_WRITE), EINVAL);
  CHECK(madvise(reads, kPage, MADV_POPULATE_READ) == 0);
  CHECK(madvise(private_memory, 2 * kPage, MADV_POPULATE_WRITE) == 0);
  CHECK_ERRNO(madvise(private_file, 2 * kPage, MADV_POPULATE_READ), EFAULT);  // behind the file's end
  CHECK_ERRNO(madvise(shared_memory, kPage, MADV_FREE), EINVAL);
  CHECK_ERRNO(madvise(private_file, kPage, MADV_FREE), EINVAL);
  CHECK_ERRNO(madvise(shared_memory, kPage, MADV_WIPEONFORK), EINVAL);
  CHECK_ERRNO(madvise(private_file, kPage, MADV_WIPEONFORK), EINVAL);
  CHECK(madvise(private_memory, kPage, MADV_WIPEONFORK) == 0);
  CHECK(madvise(shared_memory, kPage, MADV_KEEPONFORK) == 0);
  CHECK_ERRNO(madvise(private_memory, kPage, 12345), EINVAL);
}

static void remove_pages(void) {
  CHECK_ERRNO(madvise(private_memory, kPage, MADV_REMOVE), EINVAL);
  CHECK_ERRNO(madvise(private_file, kPage, MADV_REMOVE), EACCES);
  shared_memory[0] = shared_memory[kPage] = 7;
  CHECK(madvise(shared_memory, kPage, MADV_REMOVE) == 0);
  CHECK(shared_memory[0] == 0 && shared_memory[kPage] == 7);
  CHECK(mlock(shared_memory, kPage) == 0);
  CHECK_ERRNO(madvise(shared_memory, kPage, MADV_REMOVE), EINVAL);
  CHECK(munlock(shared_memory, kPage) == 0);
  CHECK(shared_file[0] == 'f' && madvise(shared_file, kPage, MADV_REMOVE) == 0 && shared_file[0] == 0);
}

static void moves(void) {
  CHECK_ERRNO((long)mremap(private_memory, 0, kPage, MREMAP_MAYMOVE), EINVAL);
  CHECK_ERRNO((long)mremap(private_memory, kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP), EINVAL);
  CHECK_ERRNO((long)mremap(private_memory, kPage, kPage, MREMAP_DONTUNMAP), EINVAL);
  CHECK_ERRNO((long)mremap(private_memory, kPage, kPage, 8), EINVAL);
  private_memory[0] = 5;
  char* moved = mremap(private_memory, kPage, kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
  CHECK(moved != MAP_FAILED && moved != private_memory && moved[0] == 5 && private_memory[0] == 0);
  private_memory[0] = 6;
  CHECK(moved[0] == 5);
  printf("%p\n", (void*)moved);
}

static void huge_pages(void) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
  CHECK_ERRNO((long)mmap(NULL, 2 << 20, kRw, flags | 13 << 26, -1, 0), EINVAL);  // no such size
  const int fd = open("file", O_RDWR);
  CHECK_ERRNO((long)mmap(NULL, 2 << 20, kRw, MAP_PRIVATE | MAP_HUGETLB, fd, 0), EINVAL);
  close(fd);
}

int main(void) {
  const int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(ftruncate(fd, kPage) == 0 && pwrite(fd, "file", 4, 0) == 4);
  private_memory = mmap(NULL, 2 * kPage, kRw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  shared_memory = mmap(NULL, 2 * kPage, kRw, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  private_file = mmap(NULL, 2 * kPage, kRw, MAP_PRIVATE, fd, 0);
  shared_file = mmap(NULL, kPage, kRw, MAP_SHARED, fd, 0);
  advice();
  remove_pages();
  moves();
  huge_pages();
  return 0;
}
