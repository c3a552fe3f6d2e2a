// record: --cpu v3
// lacked-by: soft --cpu v3
// A signal's handler that uses AVX2 leaves the upper halves as they were, whether the signal comes at a call,
// at a fault or in the middle of a computation; its frame has an XSAVE area, and what it writes there counts.
#include <signal.h>
#include <stdint.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "v3.h"

static volatile sig_atomic_t handled;
static int changes;

// uapi/asm/sigcontext.h: struct _fpx_sw_bytes at 464, the header at 512, upper halves at 576.
V3 static void on_signal(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)info;
  ucontext_t* user = context;
  unsigned char* area = (unsigned char*)user->uc_mcontext.fpregs;
  uint32_t magic = 0, extended = 0, size = 0, behind = 0, expected = 0;
  uint64_t features = 0;
  memcpy(&magic, area + 464, 4);
  memcpy(&extended, area + 468, 4);
  memcpy(&features, area + 472, 8);
  memcpy(&size, area + 480, 4);
  memcpy(&behind, area + size, 4);
  unsigned a = 0, c = 0, d = 0;
  __cpuid_count(0xd, 0, a, expected, c, d);
  CHECK((user->uc_flags & 1) && magic == 0x46505853 && behind == 0x46505845);
  CHECK(size == expected && extended == size + 4 && (features & 7) == 7 && ((uintptr_t)area & 63) == 0);
  if (changes) area[576 + 16 * 3] ^= 0xff;
  Vectors other;
  fill_vectors(&other, 99);
  load_vectors(&other);
  ++handled;
}

V3 static void check_kept(void (*cause)(void), unsigned seed) {
  Vectors before, after;
  fill_vectors(&before, seed);
  load_vectors(&before);
  cause();
  store_vectors(&after);
  if (changes) before.bytes[3][16] ^= 0xff;
  CHECK(memcmp(&before, &after, sizeof before) == 0);
}

// Functions of libc use vector registers themselves.
static long process;
static void by_plain_call(void) {
  long result = 62;
  __asm__ volatile("syscall" : "+a"(result) : "D"(process), "S"((long)SIGUSR1) : "rcx", "r11", "memory");
}
static void by_fault(void) { __asm__ volatile("ud2"); }
static void on_undefined(int signal, siginfo_t* info, void* context) {
  on_signal(signal, info, context);
  ((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP] += 2;
}
static void by_timer(void) {
  const int before = handled;
  while (handled == before) __asm__ volatile("" ::: "memory");
}

int main(void) {
  process = getpid();
  struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGVTALRM, &action, NULL) == 0);
  action.sa_sigaction = on_undefined;
  CHECK(sigaction(SIGILL, &action, NULL) == 0);
  for (unsigned i = 0; i < 4; ++i) {
    check_kept(by_plain_call, i);
    check_kept(by_fault, i + 100);
  }
  for (unsigned i = 0; i < 4; ++i) {
    const struct itimerval soon = {.it_value = {.tv_usec = 1000 + 500 * i}};
    CHECK(setitimer(ITIMER_VIRTUAL, &soon, NULL) == 0);
    check_kept(by_timer, i + 200);
  }
  changes = 1;
  check_kept(by_plain_call, 7);
  check_kept(by_fault, 8);
  printf("%d handled\n", handled);
  return 0;
}
