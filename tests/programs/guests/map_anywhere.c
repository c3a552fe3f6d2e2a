// Fixed addresses all over the address space, as sanitizers and language runtimes ask for them; reservations
// of terabytes.
// not-sanitized: its shadow is among them
#include <stdint.h>
#include <sys/mman.h>

#include "check.h"

enum { kRw = PROT_READ | PROT_WRITE, kAny = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE };
static const uint64_t kMiB = 1 << 20, kTiB = 1ull << 40;

static char* fixed(uint64_t at, uint64_t size, int prot) {
  char* m = mmap((void*)at, size, prot, kAny | MAP_FIXED_NOREPLACE, -1, 0);
  CHECK(m == (char*)at);
  return m;
}

static void everywhere(void) {
  static const uint64_t places[] = {0x7fff8000,     0x1000000000,   0x20000000000,  0x333333330000,
                                    0x4ffffff00000, 0x600000000000, 0x7dfffff00000, 0x10000000000 - 4096};
  for (size_t i = 0; i < sizeof places / sizeof *places; ++i) {
    char* m = fixed(places[i], kMiB, kRw);
    for (uint64_t at = 0; at < kMiB; at += 4096) m[at] = (char)(i + at / 4096);
    for (uint64_t at = 0; at < kMiB; at += 4096) CHECK(m[at] == (char)(i + at / 4096));
    uint64_t across;  // over a page's end
    memcpy(&across, m + 4092, 8);
    CHECK(munmap(m + kMiB / 2, kMiB / 2) == 0);
  }
}

// As AddressSanitizer's shadow: nearly all of it is never touched.
static void terabytes(void) {
  char* shadow = fixed(0x2008fff7000, 0x10007fff8000 - 0x2008fff7000, kRw);
  for (uint64_t at = 0; at < 13 * kTiB; at += 7 * kTiB / 5) shadow[at] = 1;
  char* reserved = mmap(NULL, kTiB, PROT_NONE, kAny, -1, 0);
  CHECK(reserved != MAP_FAILED);
  CHECK(mprotect(reserved + kTiB / 2, kMiB, kRw) == 0);
  reserved[kTiB / 2 + 5] = 5;
  int ends[2];
  char byte = 0;
  CHECK(pipe(ends) == 0 && write(ends[1], reserved + kTiB / 2 + 5, 1) == 1);
  CHECK(read(ends[0], shadow + 3 * kTiB, 1) == 1 && shadow[3 * kTiB] == 5);  // the kernel is first there
  CHECK(mprotect(shadow, kMiB, PROT_NONE) == 0);
  CHECK(write(ends[1], &byte, 1) == 1);
  CHECK_ERRNO(read(ends[0], reserved, 1), EFAULT);
  printf("%p\n", (void*)reserved);
}

// Code there runs, too.
static void code(void) {
  static const unsigned char seven[] = {0xb8, 7, 0, 0, 0, 0xc3};  // mov $7, %eax; ret
  char* m = fixed(0x5000000000, kMiB, kRw);
  memcpy(m + 100, seven, sizeof seven);
  CHECK(mprotect(m, 4096, PROT_READ | PROT_EXEC) == 0);
  CHECK(((int (*)(void))(m + 100))() == 7);
  char* moved = mremap(m, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, (void*)0x6100000000);
  CHECK(moved == (char*)0x6100000000 && ((int (*)(void))(moved + 100))() == 7);
}

int main(void) {
  everywhere();
  terabytes();
  code();
  return 0;
}
