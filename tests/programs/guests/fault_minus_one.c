// Accesses at the last addresses there are, as through MAP_FAILED, and a jump there. The program goes on.
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>

#include "check.h"

static sigjmp_buf back;
static void handler(int number) { siglongjmp(back, number); }

#define CAUGHT(statement)            \
  do {                               \
    int number = sigsetjmp(back, 1); \
    if (number == 0) {               \
      statement;                     \
      CHECK(0);                      \
    }                                \
    CHECK(number == SIGSEGV);        \
  } while (0)

int main(void) {
  signal(SIGSEGV, handler);
  char* volatile failed = mmap(NULL, 1ul << 60, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(failed == MAP_FAILED);
  CAUGHT(*failed = 1);
  CAUGHT(*(volatile long*)failed = 1);
  CAUGHT((void)*(volatile long*)(failed - 6));
  CAUGHT(memset(failed, 0, 100));
  CAUGHT(printf("%d\n", __builtin_popcountl(*(volatile long*)failed)));
  CAUGHT(((void (*volatile)(void))(uintptr_t)failed)());
  CAUGHT(((void (*volatile)(void))(uintptr_t)(failed - 4095))());
  CHECK(write(1, failed, 1) == -1 && errno == EFAULT);
  puts("caught all");
  return 0;
}
