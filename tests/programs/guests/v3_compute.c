// record: --cpu v3
// lacked-by: soft --cpu v3
// flags: -lm
// Code that compilers make for this level: integers, floating point, bits; compared with the same without it.
// Constants are RIP-relative operands, thread-local ones in FS. A child of a checkpoint has upper halves,
// too.
#include <math.h>

#include "v3.h"

#define COUNT 4099
static float in[COUNT];
static _Thread_local uint32_t thread_words[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

V3 __attribute__((noinline, optimize("O3"))) static uint64_t fast(const uint8_t* data, size_t size) {
  uint64_t sum = 0;
  for (size_t i = 0; i < size; ++i) sum += (uint64_t)data[i] * data[size - 1 - i] + (data[i] ^ 0x5a);
  return sum;
}
__attribute__((noinline)) static uint64_t plain(const uint8_t* data, size_t size) {
  uint64_t sum = 0;
  for (size_t i = 0; i < size; ++i) sum += (uint64_t)data[i] * data[size - 1 - i] + (data[i] ^ 0x5a);
  return sum;
}
V3 __attribute__((noinline, optimize("O3"))) static double fused(void) {
  double sum = 0.25;
  for (int i = 0; i < COUNT; ++i) sum = fma(in[i], 1.000001, sum);
  return sum;
}
__attribute__((noinline)) static double fused_plain(void) {
  double sum = 0.25;
  for (int i = 0; i < COUNT; ++i) sum = fma(in[i], 1.000001, sum);
  return sum;
}
V3 __attribute__((noinline)) static uint64_t bits_of(uint64_t x) {
  return _pext_u64(x, 0x00ff00ff00ff00ff) + _pdep_u64(x, 0x1111111111111111) + _lzcnt_u64(x) + _tzcnt_u64(x) +
         _bzhi_u64(x, 13) + _blsr_u64(x) + _andn_u64(x, 0x123456789abcdef) + (x >> 7 | x << 57);
}
static uint64_t bits_plain(uint64_t x) {
  uint64_t packed = 0, spread = 0, leading = 64, trailing = 64;
  for (unsigned i = 0, k = 0; i < 64; ++i)
    if (0x00ff00ff00ff00ff >> i & 1) packed |= (x >> i & 1) << k++;
  for (unsigned i = 0, k = 0; i < 64; ++i)
    if (0x1111111111111111 >> i & 1) spread |= (x >> k++ & 1) << i;
  for (int i = 63; i >= 0; --i)
    if (x >> i & 1) {
      leading = 63 - i;
      break;
    }
  for (unsigned i = 0; i < 64; ++i)
    if (x >> i & 1) {
      trailing = i;
      break;
    }
  return packed + spread + leading + trailing + (x & 0x1fff) + (x & (x - 1)) + (~x & 0x123456789abcdef) +
         (x >> 7 | x << 57);
}
V3 __attribute__((noinline)) static uint32_t of_thread(void) {
  __m256i low, sum = _mm256_setzero_si256();
  __asm__ volatile("vmovdqu %1, %0" : "=x"(low) : "m"(*(__m256i*)thread_words));
  sum = _mm256_add_epi32(low, *(__m256i*)(thread_words + 8));
  return (uint32_t)(_mm256_extract_epi32(sum, 0) + _mm256_extract_epi32(sum, 7));
}

int main(void) {
  __builtin_cpu_init();
  static uint8_t data[65536 + 77];
  uint64_t state = 1;
  for (size_t i = 0; i < sizeof data; ++i)
    data[i] = (uint8_t)((state = state * 6364136223846793005u + 1442695040888963407u) >> 56);
  for (int i = 0; i < COUNT; ++i) in[i] = (float)data[i] / 3;
  // Kept across calls, which are exits.
  Vectors before, after;
  fill_vectors(&before, 1);
  for (int i = 0; i < 20; ++i) {
    load_vectors(&before);
    long result = 39;
    __asm__ volatile("syscall" : "+a"(result)::"rcx", "r11", "memory");
    store_vectors(&after);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    CHECK(fast(data + i, sizeof data - 2 * i) == plain(data + i, sizeof data - 2 * i));
    CHECK(fused() == fused_plain());
    CHECK(bits_of(state) == bits_plain(state));
    CHECK(of_thread() == 10 + 24);
    printf("%016lx\n", (unsigned long)(state = bits_of(state) * 31 + fast(data, 1000)));
    fflush(stdout);
  }
  CHECK(bits_of(0) == bits_plain(0));
  return 0;
}
