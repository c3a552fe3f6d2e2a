// Mapped privately, then the file is changed, replaced and deleted: what was read stays in the recording.
#include <fcntl.h>
#include <sys/mman.h>

#include "check.h"

int main(void) {
  static char page[3 * 4096];
  memset(page, 'a', sizeof page);
  const int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(write(fd, page, 9000) == 9000);
  char* view = mmap(NULL, sizeof page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  char* second = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 4096);
  CHECK(view != MAP_FAILED && second != MAP_FAILED);
  CHECK(view[8999] == 'a' && view[9000] == 0 && second[4095] == 'a');
  view[0] = 'b';
  CHECK(pread(fd, page, 1, 0) == 1 && page[0] == 'a');
  CHECK(unlink("file") == 0);
  close(fd);
  CHECK(view[0] == 'b' && view[5000] == 'a');
  const int other = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600);
  memset(page, 'c', sizeof page);
  CHECK(write(other, page, sizeof page) == sizeof page);
  char* third = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, other, 0);
  CHECK(third[0] == 'c' && view[1] == 'a');
  fwrite(view, 1, 20, stdout);
  fwrite(third, 1, 20, stdout);
  putchar('\n');
  return 0;
}
