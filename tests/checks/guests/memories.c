// Checks in memory of each kind: ghosts whose page the program changes the rights of, a page that is seen at
// two addresses, and memory that checks map for themselves.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vassert.h"

VASSERT_GHOST static int seen;
static int *one, *other;  // the same memory

__attribute__((noinline)) static void visit(int i) {
  VASSERT_MSG(seen == i, "seen %d before %d", seen, i);  // read before anything is written there
  VASSERT_BLOCK { ++seen; }
  VASSERT_MSG(seen == i + 1, "seen %d at %d", seen, i);
}

// So often that pages which these checks leave alone are closed.
__attribute__((noinline)) static void many(int i) { VASSERT(i >= 0); }

__attribute__((noinline)) static void views(int i) {
  VASSERT_BLOCK {
    one[0] += 1000;  // gone with the check
    other[1] = one[0];
    if (other[0] != i + 1000 || one[1] != i + 1000) VASSERT_FAIL("%d and %d at %d", other[0], one[1], i);
  }
}

__attribute__((noinline)) static void own_memory(int i) {
  VASSERT_BLOCK {
    char* memory = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory[40000] != 0) VASSERT_FAIL("memory has %d at %d", memory[40000], i);
    memory[40000] = 1;
  }
}

int main(void) {
  const int file = memfd_create("views", 0);
  if (ftruncate(file, 4096) != 0) return 2;
  one = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  other = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  void* ghosts = (void*)((uintptr_t)&seen & ~(uintptr_t)4095);
  int sum = 0;
  for (int i = 0; i < 6; ++i) {
    visit(i);
    if (i % 2 == 0) {
      mprotect(ghosts, 4096, PROT_READ);
      mprotect(ghosts, 4096, PROT_READ | PROT_WRITE);
    } else {
      for (int k = 0; k < 500; ++k) many(k);
    }
    views(i);
    own_memory(i);
    one[0]++;
    sum = sum * 7 + other[0] + other[1];
    dprintf(STDOUT_FILENO, "%d\n", sum);
  }
  return 0;
}
