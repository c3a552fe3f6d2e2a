// The time stamp counter read many thousand times: alone, with an invalid opcode in between, under a timer,
// after a long way without any, and from code that changes meanwhile.
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

#include "check.h"

enum { kReads = 3000 };

static uint64_t read_counter(void) {
  uint32_t low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return (uint64_t)high << 32 | low;
}

static volatile double wanders = 1;
static uint64_t last;
static void read_many(int count) {
  for (int i = 0; i < count; ++i) {
    const uint64_t now = read_counter();
    CHECK(now > last);
    last = now;
    wanders = wanders * 1.0000001 + 1e-3;
  }
}

static volatile sig_atomic_t invalid, ticks;
static void skip(int signal, siginfo_t* info, void* context) {
  (void)info;
  CHECK(signal == SIGILL);
  ++invalid;
  ((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP] += 2;
}
static void tick(int signal) {
  (void)signal;
  ++ticks;
}

int main(void) {
  read_many(kReads);
  const struct sigaction on_invalid = {.sa_sigaction = skip, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGILL, &on_invalid, NULL) == 0);
  for (int i = 0; i < 5; ++i) {
    read_many(kReads / 5);
    __asm__ volatile("ud2" ::: "memory");
  }
  CHECK(invalid == 5);

  const struct sigaction on_tick = {.sa_handler = tick, .sa_flags = SA_RESTART};
  CHECK(sigaction(SIGALRM, &on_tick, NULL) == 0);
  const struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
  CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
  while (ticks < 20) read_many(100);
  CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);

  uint64_t sum = 0;
  for (uint64_t i = 0; i < 3000000; ++i) sum = sum * 31 + (i ^ sum >> 7);
  read_many(kReads);

  // mov $n, %eax; ret
  unsigned char* code =
      mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(code != MAP_FAILED);
  memcpy(code, (unsigned char[]){0xb8, 0, 0, 0, 0, 0xc3}, 6);
  for (int i = 0; i < kReads; ++i) {
    code[1] = (unsigned char)i;
    CHECK(((int (*)(void))code)() == (i & 0xff));
    read_many(1);
  }
  printf("%d ticks or more, %.3f, %llx\n", ticks >= 20, wanders, (unsigned long long)sum);
  return 0;
}
