// A mapping beyond the end of its file: SIGBUS, with the address.
// expect: signal BUS
#include <fcntl.h>
#include <sys/mman.h>

#include "check.h"

int main(void) {
  const int fd = open("file", O_RDWR | O_CREAT, 0600);
  CHECK(write(fd, "text", 4) == 4);
  volatile char* view = mmap(NULL, 3 * 4096, PROT_READ, MAP_PRIVATE, fd, 0);
  CHECK(view[0] == 't' && view[4095] == 0);
  puts("next page");
  fflush(stdout);
  return view[4096];
}
