// Memory that one thread protects while another writes it: the writer faults, its handler gives the right
// back and the store is done.
// flags: -pthread
// native: output
#include <sys/mman.h>

#include "threads.h"

enum { kRounds = 30 };
static volatile unsigned* page;
static atomic_int faults, ends, started_up;
static int tid;

static void handler(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  CHECK(gettid() == tid && info->si_addr == (void*)page && info->si_code == SEGV_ACCERR);
  CHECK(mprotect((void*)page, 4096, PROT_READ | PROT_WRITE) == 0);
  atomic_fetch_add(&faults, 1);
}
static void* write_it(void* unused) {
  (void)unused;
  tid = gettid();
  unsigned n = 0;
  atomic_store(&started_up, 1);
  while (!atomic_load(&ends)) {
    *page = ++n;
    CHECK(*page == n);
  }
  return NULL;
}

int main(void) {
  const struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
  page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED);
  const pthread_t thread = started(write_it, NULL);
  until_set(&started_up);
  for (int i = 0; i < kRounds; ++i) {
    CHECK(mprotect((void*)page, 4096, PROT_READ) == 0);
    while (atomic_load(&faults) == i) sched_yield();
    CHECK(atomic_load(&faults) == i + 1);
  }
  atomic_store(&ends, 1);
  joined(thread);
  printf("%d faults\n", atomic_load(&faults));
  return 0;
}
