// record: --cpu v3
// lacked-by: soft --cpu v3
// Where VEX-encoded accesses fault: plain ones over the end of memory, gathers at the element that does,
// moves under a mask only at what the mask chooses; and misaligned ones.
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "v3.h"

static sigjmp_buf back;
static volatile uintptr_t fault_address;
static volatile int fault_signal, fault_code;

static void on_fault(int signal, siginfo_t* info, void* context) {
  (void)context;
  fault_signal = signal;
  fault_code = info->si_code;
  fault_address = (uintptr_t)info->si_addr;
  siglongjmp(back, 1);
}

static unsigned char* end;  // of what may be read; the page behind may not

// Where `statement` faults, from the end of what there is; 0: nowhere.
#define FAULT_AT(statement)                                                             \
  ({                                                                                    \
    long at = 0;                                                                        \
    if (sigsetjmp(back, 1) == 0) {                                                      \
      statement;                                                                        \
    } else {                                                                            \
      CHECK(fault_signal == SIGSEGV);                                                   \
      at = fault_code == SEGV_ACCERR ? (long)(fault_address - (uintptr_t)end) + 1 : -1; \
    }                                                                                   \
    at;                                                                                 \
  })

V3 static __m256i load(const void* at) {
  __m256i result;
  __asm__ volatile("vmovdqu %1, %0" : "=x"(result) : "m"(*(const __m256i*)at));
  return result;
}
V3 __attribute__((noinline)) static void load_plain(const void* at) { (void)load(at); }
V3 __attribute__((noinline)) static void load_aligned(const void* at) {
  __m256i result;
  __asm__ volatile("vmovdqa %1, %0" : "=x"(result) : "m"(*(const __m256i*)at));
}
V3 __attribute__((noinline)) static void store(void* at) {
  __asm__ volatile("vmovdqu %%ymm0, %0" : "=m"(*(__m256i*)at));
}
V3 __attribute__((noinline)) static void load_masked(const int* at, const int* mask) {
  const __m256i chosen = load(mask);
  __m256i result;
  __asm__ volatile("vpmaskmovd %2, %1, %0" : "=x"(result) : "x"(chosen), "m"(*(const __m256i*)at));
}
V3 __attribute__((noinline)) static void store_masked(int* at, const int* mask) {
  const __m256i chosen = load(mask);
  __asm__ volatile("vpmaskmovd %%ymm0, %1, %0" : "=m"(*(__m256i*)at) : "x"(chosen));
}
// What the mask says afterwards, of which bits are left.
V3 __attribute__((noinline)) static int gather(const int* base, const int* index, const int* mask,
                                               int* left) {
  __m256i which = load(index);
  __m256i chosen = load(mask), result = _mm256_setzero_si256();
  __asm__ volatile("vpgatherdd %1, (%3,%2,4), %0"
                   : "+x"(result), "+x"(chosen)
                   : "x"(which), "r"(base)
                   : "memory");
  *left = _mm256_movemask_ps(_mm256_castsi256_ps(chosen));
  return _mm256_extract_epi32(result, 0);
}
V3 __attribute__((noinline)) static long gather_wide(const long* base, const long* index, const long* mask) {
  __m256i which = load(index);
  __m256i chosen = load(mask), result = _mm256_setzero_si256();
  __asm__ volatile("vpgatherqq %1, (%3,%2,8), %0"
                   : "+x"(result), "+x"(chosen)
                   : "x"(which), "r"(base)
                   : "memory");
  return _mm256_extract_epi64(result, 0);
}

int main(void) {
  const long page = 4096;
  unsigned char* memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  for (long i = 0; i < page; ++i) memory[i] = (unsigned char)(i * 7);
  end = memory + page;
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
  for (int round = 0; round < 3; ++round) {
    // Present and then forbidden, never present, and not mapped beyond the first round.
    memory[page] = 1;
    CHECK(mprotect(end, page, PROT_NONE) == 0);
    CHECK(FAULT_AT(load_plain(end - 32)) == 0 && FAULT_AT(load_plain(end - 31)) == 1 &&
          FAULT_AT(load_plain(end)) == 1);
    CHECK(FAULT_AT(load_plain(end + 5)) == 6);
    CHECK(FAULT_AT(store(end - 16)) == 1 && FAULT_AT(store(end - 32)) == 0);
    CHECK(FAULT_AT(load_aligned(end - 33)) == -1);
    CHECK(FAULT_AT(load_aligned(end)) == 1);
    static const int masks[][8] = {{-1, -1, -1, -1, 0, 0, 0, 0}, {0, 0, 0, 0, -1, 0, 0, 0},
                                   {0, 0, 0, 0, 0, 0, -1, 0},    {0, 0, 0, 0, 0, 0, 0, 0},
                                   {-1, 0, 0, 0, 0, 0, 0, -1},   {0x7fffffff, 0, 0, 0, 0x7fffffff, 0, 0, 0}};
    for (unsigned i = 0; i < sizeof masks / sizeof masks[0]; ++i) {
      const long reads = FAULT_AT(load_masked((int*)(end - 16), masks[i]));
      const long writes = FAULT_AT(store_masked((int*)(end - 16), masks[i]));
      printf("mask %u: load %ld, store %ld\n", i, reads, writes);
    }
    static const int indices[][8] = {{-1, -2, -3, -4, -5, -6, -7, -8},
                                     {-1, -2, 0, -4, 5, -6, -7, -8},
                                     {7, -1, -1, -1, -1, -1, -1, -1},
                                     {-1, -1, -1, -1, -1, -1, -1, 1000}};
    for (unsigned i = 0; i < sizeof indices / sizeof indices[0]; ++i)
      for (unsigned j = 0; j < sizeof masks / sizeof masks[0]; ++j) {
        volatile int first = 0;
        int left = -1;
        const long at = FAULT_AT(first = gather((int*)end, indices[i], masks[j], &left));
        printf("gather %u, mask %u: %ld, %d, left %d\n", i, j, at, at ? 0 : first, left);
      }
    static const long wide[] = {-1, 3, -2, -3}, chosen[] = {-1, 0, -1, -1}, all[] = {-1, -1, -1, -1};
    volatile long first = 0;
    CHECK(FAULT_AT(first = gather_wide((long*)end, wide, chosen)) == 0 && first == *(long*)(end - 8));
    CHECK(FAULT_AT(first = gather_wide((long*)end, wide, all)) == 25);
    CHECK(mprotect(end, page, PROT_READ | PROT_WRITE) == 0);
    if (round == 1) CHECK(madvise(end, page, MADV_DONTNEED) == 0);
  }
  puts("faults");
  return 0;
}
