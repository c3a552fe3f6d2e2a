// Threads that map, write, check and unmap memory at the same time, some of it at places that others have
// just given back; and one whose memory another takes away while it computes on it.
// flags: -pthread
// native: output
#include <setjmp.h>
#include <sys/mman.h>

#include "threads.h"

enum { kThreads = 4, kRounds = 60 };
static __thread sigjmp_buf back;
static char* volatile shared;
static atomic_int computing;

static void* work(void* argument) {
  unsigned state = (unsigned)(uintptr_t)argument, sum = 0;
  char* held[4] = {0};
  size_t sizes[4] = {0};
  for (int round = 0; round < kRounds; ++round) {
    const unsigned i = next_random(&state) % 4;
    if (held[i]) {
      for (size_t at = 0; at < sizes[i]; at += 1024) sum += (unsigned char)held[i][at];
      CHECK(munmap(held[i], sizes[i]) == 0);
    }
    sizes[i] = (1 + next_random(&state) % 9) * 4096;
    held[i] = mmap(NULL, sizes[i], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(held[i] != MAP_FAILED);
    for (size_t at = 0; at < sizes[i]; at += 512) {
      CHECK(held[i][at] == 0);
      held[i][at] = (char)(at / 512 + round);
    }
    if (round % 7 == 0) {
      held[i] = mremap(held[i], sizes[i], sizes[i] + 8192, MREMAP_MAYMOVE);
      CHECK(held[i] != MAP_FAILED);
      sizes[i] += 8192;
    }
    if (round % 5 == 0) CHECK(madvise(held[i], 4096, MADV_DONTNEED) == 0 && held[i][0] == 0);
  }
  for (int i = 0; i < 4; ++i)
    if (held[i]) CHECK(munmap(held[i], sizes[i]) == 0);
  return (void*)(uintptr_t)sum;
}
static void handler(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  CHECK((char*)info->si_addr >= shared && (char*)info->si_addr < shared + 65536);
  siglongjmp(back, 1);
}
static void* compute(void* unused) {
  (void)unused;
  if (sigsetjmp(back, 1)) return (void*)1;
  atomic_store(&computing, 1);
  for (unsigned i = 0;; ++i) ++*(volatile unsigned*)(shared + i * 64 % 65536);
}

int main(void) {
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  for (int i = 0; i < kThreads; ++i) printf("%lu\n", (unsigned long)joined(threads[i]));
  const struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
  shared = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED);
  const pthread_t thread = started(compute, NULL);
  until_set(&computing);
  nap(1);
  CHECK(munmap(shared, 65536) == 0);
  CHECK(joined(thread) == (void*)1);
  printf("taken away\n");
  return 0;
}
