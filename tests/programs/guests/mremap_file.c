// mremap of file mappings, private and shared: what grows in comes from the file.
#include <fcntl.h>
#include <sys/mman.h>

#include "check.h"

int main(void) {
  const int fd = open("file", O_RDWR | O_CREAT, 0600);
  static char page[4096];
  for (int i = 0; i < 6; ++i) {
    memset(page, '0' + i, sizeof page);
    CHECK(write(fd, page, sizeof page) == sizeof page);
  }
  for (int kind = 0; kind < 2; ++kind) {
    char* view = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, kind ? MAP_SHARED : MAP_PRIVATE, fd, 4096);
    CHECK(view != MAP_FAILED && view[0] == '1');
    view[1] = 'x';
    view = mremap(view, 2 * 4096, 5 * 4096, MREMAP_MAYMOVE);
    CHECK(view != MAP_FAILED && view[0] == '1' && view[1] == 'x' && view[2 * 4096] == '3' &&
          view[4 * 4096] == '5');
    view[4 * 4096] = 'y';
    CHECK(pread(fd, page, 1, 5 * 4096) == 1 && page[0] == (kind ? 'y' : '5'));
    view = mremap(view, 5 * 4096, 4096, 0);
    CHECK(view != MAP_FAILED && view[0] == '1' && view[1] == 'x');
    printf("%p\n", (void*)view);
  }
  return 0;
}
