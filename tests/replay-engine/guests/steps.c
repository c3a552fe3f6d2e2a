// Functions to stop in, code that system calls write and map anew, and memory of every kind of sharing.
#include "calls.h"

enum {
  tell_leaf = 1,
  tell_step,
  tell_word,
  tell_round,
  tell_code,
  tell_code_over,
  tell_sharing,
  tell_shared
};

static volatile unsigned long sum, word;

__attribute__((noinline)) void leaf(void) { sum += word; }

__attribute__((noinline)) void step(unsigned long value) {
  sum = sum * 3 + value;
  if (value % 2) leaf();
}

// Returns `number` in EAX.
static void send_code(int to, unsigned char number) {
  const unsigned char code[] = {0xb8, number, 0, 0, 0, 0xc3};
  call3(__NR_write, to, (long)code, sizeof code);
}

static void run_code(void* code, int times) {
  for (int i = 0; i < times; ++i) sum += ((unsigned (*)(void))code)();
}

static void changing_code(void) {
  int ends[2];
  call3(__NR_pipe, (long)ends, 0, 0);
  void* code = map(0, 4096, kRead | kWrite | kExecute, kPrivate | kAnonymous, -1);
  tell(tell_code, (long)code);
  // Written by an answer, and once more while a breakpoint may be in it.
  for (int i = 3; i > 1; --i) {
    send_code(ends[1], (unsigned char)i);
    call3(__NR_read, ends[0], (long)code, 6);
    run_code(code, i);
  }
  // Mapped anew.
  map(code, 4096, kRead | kWrite, kPrivate | kAnonymous | kFixed, -1);
  static const unsigned char trapped[] = {0x53, 0x31, 0xc0, 0x31, 0xc9,
                                          0x0f, 0xa2, 0x5b, 0xc3};  // CPUID at 5
  for (unsigned i = 0; i < sizeof trapped; ++i) ((volatile unsigned char*)code)[i] = trapped[i];
  // Trapped instructions come and go with this.
  for (int i = 0; i < 3; ++i) {
    call3(__NR_mprotect, (long)code, 4096, kRead | kExecute);
    run_code(code, 2);
    call3(__NR_mprotect, (long)code, 4096, kRead | kWrite);
    sum += ((volatile unsigned char*)code)[6];
  }
  tell(tell_code_over, 0);
}

static void sharing(void) {
  const int file = (int)call3(__NR_open, (long)"shared", 0102, 0600);
  call3(__NR_ftruncate, file, 8192, 0);
  volatile unsigned long* kinds[] = {
      map(0, 8192, kRead | kWrite, kShared | kAnonymous, -1), map(0, 8192, kRead | kWrite, kShared, file),
      map(0, 8192, kRead | kWrite, kShared, file), map(0, 8192, kRead | kWrite, kPrivate, file),
      map(0, 8192, kRead | kWrite, kPrivate | kAnonymous, -1)};
  for (int k = 0; k < 5; ++k) tell(tell_shared, (long)kinds[k]);
  for (unsigned long i = 1; i < 60; ++i) {
    // Each depends on all before it, so another run's writes can't be without effect.
    for (int k = 0; k < 5; ++k) kinds[k][i + (i % 2) * 512] = sum = sum * 5 + kinds[k][i - 1] + i;
    kinds[0][0] += sum;
    kinds[1][0] += kinds[2][1];
    tell(tell_sharing, (long)i);
    if (i % 20 == 0) print_number(sum);
  }
}

int program(void) {
  tell(tell_leaf, (long)&leaf);
  tell(tell_step, (long)&step);
  tell(tell_word, (long)&word);
  for (unsigned long round = 0; round < 10; ++round) {
    for (unsigned long i = 0; i <= round; ++i) step(i);
    word = round * 0x0101010101010101;  // while a breakpoint may be in it
    tell(tell_round, (long)round);
  }
  print_number(sum);
  changing_code();
  sharing();
  print_number(sum);
  return (int)(sum % 50);
}
