// AES-NI and PCLMULQDQ where CPUID offers them, as programs do it.
// flags: -maes -mpclmul -msse4.1
#include <cpuid.h>
#include <wmmintrin.h>

#include "check.h"

int main(void) {
  unsigned a, b, c, d;
  CHECK(__get_cpuid(1, &a, &b, &c, &d));
  printf("aes %d pclmul %d sse4.2 %d avx %d rdrand %d\n", (c & bit_AES) != 0, (c & bit_PCLMUL) != 0,
         (c & bit_SSE4_2) != 0, (c & bit_AVX) != 0, (c & bit_RDRND) != 0);
  __m128i x = _mm_set_epi32(1, 2, 3, 4);
  if (c & bit_AES)
    for (int i = 0; i < 1000; ++i)
      x = _mm_aesenc_si128(_mm_aeskeygenassist_si128(x, 7), _mm_aesdec_si128(x, x));
  if (c & bit_PCLMUL)
    for (int i = 0; i < 1000; ++i) x = _mm_xor_si128(x, _mm_clmulepi64_si128(x, _mm_set1_epi32(i), 0x10));
  printf("%016llx\n", (unsigned long long)_mm_cvtsi128_si64(x));
  return 0;
}
