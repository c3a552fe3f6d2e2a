// Maps a part of a file shared, and later more of it: what was not mapped before is the file's all the same.
#include "calls.h"

static unsigned long words[3 * 512];

int program(void) {
  const int file = (int)call3(__NR_open, (long)"grown", 0102, 0600);
  for (unsigned long i = 0; i < 3 * 512; ++i) words[i] = i * i;
  call3(__NR_write, file, (long)words, sizeof words - 100);
  volatile unsigned long* mapped = map(0, 4096, kRead | kWrite, kShared, file);
  unsigned long sum = 0;
  for (unsigned long i = 0; i < 30; ++i) {
    mapped[i] += sum = sum * 3 + mapped[i + 7];
    if (i == 10) mapped = (unsigned long*)call6(__NR_mremap, (long)mapped, 4096, 3 * 4096, 1, 0, 0);
    if (i > 10) sum += mapped[512 + i] + mapped[1024 + i];
    if (i == 20) {
      call3(__NR_munmap, (long)mapped, 3 * 4096, 0);
      mapped = map(0, 3 * 4096, kRead | kWrite, kShared, file);
    }
    tell(1, (long)i);
  }
  print_number(sum);
  return (int)(sum % 50);
}
