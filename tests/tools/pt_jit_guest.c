// Writes code and runs it, in every way there is; pt_flow_test.cc knows how many instructions that makes.
// Prints the addresses of its pages.
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { kRounds = 100, kPage = 4096 };

static void check(int good) {
  if (!good) abort();
}

// `count` times INC EAX, then RET.
static void write_code(unsigned char* at, int count) {
  for (int i = 0; i < count; ++i) memcpy(at + 2 * i, "\xff\xc0", 2);
  at[2 * count] = 0xc3;
}

static void run(unsigned char* code) { ((void (*)(void))code)(); }

static unsigned char* map(int protection, int flags, int fd) {
  void* const page = mmap(NULL, kPage, protection, flags, fd, 0);
  check(page != MAP_FAILED);
  return page;
}

// Code that goes on into a page which is executable only when it is needed.
static unsigned char* two_pages;
static void make_executable(int number) {
  (void)number;
  check(mprotect(two_pages + kPage, kPage, PROT_READ | PROT_EXEC) == 0);
}

int main(void) {
  const int rw = PROT_READ | PROT_WRITE, rx = PROT_READ | PROT_EXEC;
  // Written while it is not executable.
  unsigned char* const in_turn = map(rw, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  for (int round = 0; round < kRounds; ++round) {
    check(mprotect(in_turn, kPage, rw) == 0);
    write_code(in_turn, 1 + round % 7);
    check(mprotect(in_turn, kPage, rx) == 0);
    run(in_turn);
  }
  // Written with nothing but an event in between.
  unsigned char* const both = map(rw | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  for (int round = 0; round < kRounds; ++round) {
    write_code(both, 1 + round % 7);
    run(both);
    getppid();
  }
  // A file's page, changed before it is executable; then the file's again.
  const int fd = open("code", O_RDWR | O_CREAT | O_TRUNC, 0600);
  unsigned char bytes[kPage];
  memset(bytes, 0x90, sizeof bytes);
  write_code(bytes, 2);
  check(fd >= 0 && write(fd, bytes, kPage) == kPage);
  unsigned char* const file = map(rw, MAP_PRIVATE, fd);
  write_code(file, 5);
  check(mprotect(file, kPage, rx) == 0);
  run(file);
  check(madvise(file, kPage, MADV_DONTNEED) == 0);
  run(file);
  // Another page where one was.
  check(munmap(in_turn, kPage) == 0);
  check(mmap(in_turn, kPage, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == in_turn);
  write_code(in_turn, 9);
  check(mprotect(in_turn, kPage, rx) == 0);
  run(in_turn);
  two_pages = mmap(NULL, 2 * kPage, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(two_pages != MAP_FAILED);
  unsigned char* const before_end = two_pages + kPage - 4;
  write_code(before_end, 4);
  check(mprotect(two_pages, kPage, rx) == 0);
  check(signal(SIGSEGV, make_executable) != SIG_ERR);
  run(before_end);
  run(before_end);
  printf("%p %p %p %p %p\n", (void*)in_turn, (void*)both, (void*)file, (void*)before_end,
         (void*)(two_pages + kPage));
  return 0;
}
