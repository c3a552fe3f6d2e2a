// Memory that is writable and executable at once: trapped instructions that come into it in every way, at the
// seam of two pages, beside data that is written all the time, by a read, under code that writes where it is;
// trampolines on an executable stack.
#include <stdlib.h>
#include <unistd.h>

#include "jit.h"

enum { kPage = 4096 };

// cpuid leaf 1: ecx
static const unsigned char kCpuid[] = {0x53, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0x89, 0xc8, 0x5b, 0xc3};
// rdtsc; shl rdx, 32; mov eax, eax; or rax, rdx; ret
static const unsigned char kRdtsc[] = {0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20,
                                       0x89, 0xc0, 0x48, 0x09, 0xd0, 0xc3};

static uint64_t call(const unsigned char* code, uint64_t argument) { return ((Function)code)(argument); }

static void at_a_seam(unsigned char* pages) {
  for (int before = 1; before < (int)sizeof kRdtsc; ++before) {
    unsigned char* at = pages + kPage - before;
    memcpy(at, kRdtsc, sizeof kRdtsc);
    printf("seam %d: %lx\n", before, call(at, 0));
  }
  // The first byte waits there while the second one comes.
  pages[kPage - 1] = 0x0f;
  emit_add(pages, 3);
  CHECK(call(pages, 4) == 7);
  memcpy(pages + kPage, kRdtsc + 1, sizeof kRdtsc - 1);
  printf("second page: %lx\n", call(pages + kPage - 1, 0));
}

static void beside_data(unsigned char* page) {
  volatile uint64_t* count = (volatile uint64_t*)(page + 2048);
  emit_add(page, 1);
  uint64_t sum = 0;
  for (int i = 0; i < 200; ++i) {
    sum = call(page, sum);
    *count += sum;
  }
  CHECK(sum == 200 && *count == 200 * 201 / 2);
  memcpy(page + 512, kCpuid, sizeof kCpuid);
  for (int i = 0; i < 20; ++i) {
    printf("beside data: %lx %lx\n", call(page + 512, 0), call(page, *count));
    ++*count;
  }
}

static void by_a_read(unsigned char* page) {
  emit_add(page, 5);
  CHECK(call(page, 1) == 6);
  int ends[2];
  CHECK(pipe(ends) == 0);
  CHECK(write(ends[1], kCpuid, sizeof kCpuid) == sizeof kCpuid);
  CHECK(read(ends[0], page, sizeof kCpuid) == sizeof kCpuid);
  printf("read: %lx\n", call(page, 0));
  CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
}

// inc dword [rip + 1]; mov eax, 0; ret: counts in its own instruction; then rdtsc, which nobody executes.
static void where_it_is(unsigned char* page) {
  static const unsigned char code[] = {0xff, 0x05, 1, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3, 0x0f, 0x31};
  memcpy(page, code, sizeof code);
  for (uint64_t i = 1; i <= 50; ++i) CHECK(call(page, 0) == i);
  memset(page + 12, 0x90, 2);
  for (uint64_t i = 51; i <= 100; ++i) CHECK(call(page, 0) == i);
}

// RDRAND sets CF where it had a number; what a processor lacks is no trap, so only where CPUID has it.
static void random_numbers(unsigned char* page) {
  memcpy(page, kCpuid, sizeof kCpuid);
  if ((call(page, 0) >> 30 & 1) == 0) return;
  static const unsigned char code[] = {0x48, 0x0f, 0xc7, 0xf0, 0xc3};
  memcpy(page, code, sizeof code);
  for (int i = 0; i < 3; ++i) printf("rdrand: %lx\n", call(page, 0));
}

// lea rax, [rdi + rdi]; ret on the stack, as GCC puts trampolines there: each call after a push.
static void on_the_stack(void) {
  unsigned char code[64];
  memcpy(code, "\x48\x8d\x04\x3f\xc3", 5);
  const uint64_t start = (uint64_t)code & ~(uint64_t)(kPage - 1);
  const size_t size = (uint64_t)code + sizeof code - start;
  CHECK(mprotect((void*)start, size, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
  uint64_t sum = 0;
  for (uint64_t i = 0; i < 3000; ++i) sum += call(code, i);
  CHECK(sum == (uint64_t)3000 * 2999);
  memcpy(code, kCpuid, sizeof kCpuid);
  printf("on the stack: %lx\n", call(code, 0));
}

int main(void) {
  unsigned char* pages = code_pages(2, PROT_READ | PROT_WRITE | PROT_EXEC);
  at_a_seam(pages);
  beside_data(pages);
  by_a_read(pages);
  where_it_is(pages);
  random_numbers(pages);
  on_the_stack();
  return 0;
}
