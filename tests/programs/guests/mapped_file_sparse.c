// Files of 20 GiB that are nearly all hole, mapped shared and privately: holes cost nothing.
#include <fcntl.h>
#include <sys/mman.h>

#include "check.h"

int main(void) {
  const off_t size = (off_t)20 << 30;
  for (int private = 0; private < 2; private ++) {
    int fd = open("sparse", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(pwrite(fd, "x", 1, size - 1) == 1 && pwrite(fd, "middle", 6, size / 4) == 6);
    if (private) {
      CHECK(close(fd) == 0);
      fd = open("sparse", O_RDONLY);
    }
    CHECK(unlink("sparse") == 0);
    char* view = mmap(NULL, size, PROT_READ | PROT_WRITE, private ? MAP_PRIVATE : MAP_SHARED, fd, 0);
    CHECK(view != MAP_FAILED);
    view[size / 2] = 7;
    CHECK(view[size - 1] == 'x' && memcmp(view + size / 4, "middle", 6) == 0 && view[size / 3] == 0);
    printf("%d %c\n", view[size / 2], view[size - 1]);
    CHECK(munmap(view, size) == 0 && close(fd) == 0);
  }
  return 0;
}
