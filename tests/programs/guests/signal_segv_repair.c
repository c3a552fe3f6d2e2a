// A handler that repairs what faulted, and the instruction goes on: reads, writes, and a fault in a string
// move.
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "check.h"

static char* area;
static int faults;
static void handler(int signal, siginfo_t* info, void* context) {
  const ucontext_t* c = context;
  char* page = (char*)((uintptr_t)info->si_addr & ~4095ul);
  CHECK(signal == SIGSEGV && page >= area && page < area + 64 * 4096);
  printf("fault at +%#lx, code %d, error %llx\n", (long)((char*)info->si_addr - area), info->si_code,
         c->uc_mcontext.gregs[REG_ERR]);
  ++faults;
  CHECK(mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0);
}

int main(void) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  sigaction(SIGSEGV, &action, NULL);
  area = mmap(NULL, 64 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  area[0] = 1;
  CHECK(area[0] == 1 && *(volatile char*)(area + 3 * 4096) == 0 && faults == 2);
  char* from = area + 10 * 4096 + 100;
  char* to = area + 20 * 4096 + 3000;
  size_t size = 10000;
  __asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(size) : : "memory");
  CHECK(size == 0 && from == area + 10 * 4096 + 10100);
  CHECK(mprotect(area, 4096, PROT_READ) == 0);
  *(volatile uint64_t*)(area + 8) += 5;
  *(volatile uint32_t*)(area + 40 * 4096 - 2) = 0x12345678;  // across two pages
  CHECK(*(volatile uint32_t*)(area + 40 * 4096 - 2) == 0x12345678 && area[8] == 5);
  printf("%d faults\n", faults);
  return 0;
}
