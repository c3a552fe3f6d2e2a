// The heap's end moves up and down; what comes back is zero.
#include <stdint.h>
#include <sys/syscall.h>

#include "check.h"

int main(void) {
  const uintptr_t start = (uintptr_t)syscall(SYS_brk, 0);
  CHECK((uintptr_t)syscall(SYS_brk, start + 100000) == start + 100000);
  char* heap = (char*)start;
  memset(heap, 'h', 100000);
  CHECK((uintptr_t)syscall(SYS_brk, start + 10) == start + 10);
  CHECK((uintptr_t)syscall(SYS_brk, start + 200000) == start + 200000);
  CHECK(heap[9] == 'h' && heap[8192] == 0 && heap[99999] == 0 && heap[199999] == 0);
  CHECK((uintptr_t)syscall(SYS_brk, 4096) == start + 200000);
  CHECK((uintptr_t)syscall(SYS_brk, UINTPTR_MAX - 5) == start + 200000);
  CHECK((uintptr_t)syscall(SYS_brk, start) == start);
  printf("%lx\n", start);
  return 0;
}
