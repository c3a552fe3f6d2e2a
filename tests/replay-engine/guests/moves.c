// Code that is moved over other code, and code in a mapped file that system calls change.
#include "calls.h"

enum { tell_there = 1, tell_moved, tell_mapped, tell_over };

static volatile unsigned long sum;

static void run_code(void* code, int times) {
  for (int i = 0; i < times; ++i) sum = sum * 3 + ((unsigned (*)(void))code)();
}

// Code that returns `number` in EAX.
#define CODE(number) \
  { 0xb8, (unsigned char)(number), 0, 0, 0, 0xc3 }

int program(void) {
  int ends[2];
  call3(__NR_pipe, (long)ends, 0, 0);
  void* there = map(0, 4096, kRead | kWrite | kExecute, kPrivate | kAnonymous, -1);
  tell(tell_there, (long)there);
  const unsigned char first[] = CODE(1);
  call3(__NR_write, ends[1], (long)first, sizeof first);
  call3(__NR_read, ends[0], (long)there, sizeof first);
  run_code(there, 1);
  for (int i = 1; i <= 3; ++i) {
    unsigned char* other = map(0, 4096, kRead | kWrite | kExecute, kPrivate | kAnonymous, -1);
    const unsigned char code[] = CODE(i + 10);
    for (unsigned long at = 0; at < sizeof code; ++at) ((volatile unsigned char*)other)[at] = code[at];
    call6(__NR_mremap, (long)other, 4096, 4096, 3 /* MREMAP_MAYMOVE | MREMAP_FIXED */, (long)there, 0);
    run_code(there, i);
  }
  tell(tell_moved, 0);

  const int file = (int)call3(__NR_open, (long)"code", 0102, 0700);
  call3(__NR_ftruncate, file, 4096, 0);
  void* mapped = map(0, 4096, kRead | kExecute, kShared, file);
  tell(tell_mapped, (long)mapped);
  for (int i = 1; i <= 3; ++i) {
    const unsigned char code[] = CODE(i + 20);
    call6(__NR_pwrite64, file, (long)code, sizeof code, 0, 0, 0);
    run_code(mapped, i);
  }
  tell(tell_over, 0);
  print_number(sum);
  return 4;
}
