// MAP_FIXED over what is there: anonymous over file, file over anonymous, over the program's own data.
#include <fcntl.h>
#include <sys/mman.h>

#include "check.h"

static char own[3 * 4096] __attribute__((aligned(4096))) = "own data";

int main(void) {
  const int fd = open("/proc/self/exe", O_RDONLY);
  const int any = MAP_PRIVATE | MAP_ANONYMOUS;
  char* m = mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, any, -1, 0);
  memset(m, 'm', 16 * 4096);
  CHECK(mmap(m + 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == m + 4096);
  CHECK(memcmp(m + 4096, "\177ELF", 4) == 0 && m[4095] == 'm' && m[8192] == 'm');
  CHECK(mmap(m, 3 * 4096, PROT_READ | PROT_WRITE, any | MAP_FIXED, -1, 0) == m);
  CHECK(m[0] == 0 && m[4096] == 0 && m[3 * 4096] == 'm');
  CHECK(strcmp(own, "own data") == 0);
  CHECK(mmap(own + 4096, 4096, PROT_READ | PROT_WRITE, any | MAP_FIXED, -1, 0) == own + 4096);
  own[4096] = 1;
  CHECK(strcmp(own, "own data") == 0);
  CHECK(mmap(own, 4096, PROT_READ | PROT_WRITE, any | MAP_FIXED, -1, 0) == own && own[0] == 0);
  CHECK_ERRNO((long)mmap(m + 1, 4096, PROT_READ, any | MAP_FIXED, -1, 0), EINVAL);
  CHECK_ERRNO((long)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 500, 0), EBADF);
  CHECK_ERRNO((long)mmap(NULL, 0, PROT_READ, any, -1, 0), EINVAL);
  printf("%p\n", (void*)m);
  return 0;
}
