// A file that another process rewrites all the time, by read and as a mapping.
// setup: echo start > changing
// beside: bash -c 'i=0; while :; do echo "turn $((i++)) $RANDOM" > changing.new; mv changing.new changing; echo $i >> growing; done'
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "check.h"

int main(void) {
  for (int i = 0; i < 200; ++i) {
    char text[100] = "";
    const int fd = open("changing", O_RDONLY);
    CHECK(fd >= 0);
    struct stat status;
    CHECK(fstat(fd, &status) == 0);
    const ssize_t size = read(fd, text, sizeof text - 1);
    CHECK(size == status.st_size);
    const char* view = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(view != MAP_FAILED && memcmp(view, text, (size_t)size) == 0);
    printf("%ld %lu %.20s%s", status.st_mtim.tv_nsec, status.st_ino, text, view);
    CHECK(munmap((void*)view, 4096) == 0);
    close(fd);
    CHECK(stat("growing", &status) == 0 || errno == ENOENT);
    printf("%ld\n", status.st_size);
  }
  return 0;
}
