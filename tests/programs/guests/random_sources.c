// Randomness from the kernel: getrandom, /dev/urandom, AT_RANDOM, and what the C library makes of them.
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/random.h>

#include "check.h"

static void show(const char* what, const void* bytes, size_t size) {
  printf("%s ", what);
  for (size_t i = 0; i < size; ++i) printf("%02x", ((const unsigned char*)bytes)[i]);
  putchar('\n');
}

int main(void) {
  unsigned char bytes[64], more[64];
  CHECK(getrandom(bytes, sizeof bytes, 0) == sizeof bytes);
  show("getrandom", bytes, sizeof bytes);
  const int fd = open("/dev/urandom", O_RDONLY);
  CHECK(fd >= 0 && read(fd, more, sizeof more) == sizeof more);
  CHECK(memcmp(bytes, more, sizeof bytes) != 0);
  show("urandom", more, sizeof more);
  CHECK(getentropy(bytes, 32) == 0);
  show("getentropy", bytes, 32);
  show("AT_RANDOM", (void*)getauxval(AT_RANDOM), 16);
  char name[] = "fileXXXXXX";
  CHECK(mkstemp(name) >= 0);
  puts(name);
  unsigned sum = 0;
  for (int i = 0; i < 2000; ++i) {
    unsigned value;
    CHECK(getrandom(&value, sizeof value, GRND_NONBLOCK) == sizeof value);
    sum += value;
  }
  printf("%u\n", sum);
  return 0;
}
