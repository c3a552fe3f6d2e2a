// SSE2 to SSE4.2 and POPCNT by intrinsics, against plain C.
// flags: -msse4.2 -mpopcnt
#include <nmmintrin.h>
#include <stdint.h>

#include "check.h"

int main(void) {
  uint32_t a[4], b[4], state = 12345;
  uint64_t digest = 0;
  for (int round = 0; round < 2000; ++round) {
    for (int i = 0; i < 4; ++i)
      a[i] = state = state * 1664525 + 1013904223, b[i] = state = state * 1664525 + 7;
    const __m128i x = _mm_loadu_si128((void*)a), y = _mm_loadu_si128((void*)b);
    uint32_t product[4], least[4];
    _mm_storeu_si128((void*)product, _mm_mullo_epi32(x, y));
    _mm_storeu_si128((void*)least, _mm_min_epu32(x, y));
    uint32_t crc = 0;
    for (int i = 0; i < 4; ++i) {
      CHECK(product[i] == a[i] * b[i] && least[i] == (a[i] < b[i] ? a[i] : b[i]));
      crc = _mm_crc32_u32(crc, a[i]);
      int ones = 0;
      for (uint32_t v = b[i]; v; v &= v - 1) ++ones;
      CHECK(_mm_popcnt_u32(b[i]) == ones);
    }
    const __m128i shuffled = _mm_shuffle_epi8(x, _mm_and_si128(y, _mm_set1_epi8(0x0f)));
    const __m128i blended = _mm_blendv_epi8(shuffled, _mm_abs_epi32(x), y);
    const __m128i packed = _mm_packus_epi32(blended, _mm_alignr_epi8(x, y, 5));
    const __m128i sad = _mm_mpsadbw_epu8(packed, y, 5);
    const __m128i wide = _mm_mul_epu32(sad, _mm_srli_epi64(x, 32));
    digest = digest * 31 + (uint64_t)_mm_extract_epi64(wide, 1) + crc + (uint64_t)_mm_cvtsi128_si64(sad);
    digest += (uint64_t)_mm_cmpistri(x, y, _SIDD_CMP_EQUAL_ANY) +
              (uint64_t)_mm_movemask_epi8(_mm_cmpgt_epi64(x, y));
    const __m128d d = _mm_cvtepi32_pd(x), e = _mm_cvtepi32_pd(y);
    const __m128d rounded = _mm_round_pd(_mm_div_pd(d, e), _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    digest += (uint64_t)(int64_t)_mm_cvtsd_f64(_mm_dp_pd(rounded, _mm_set1_pd(3), 0x31));
  }
  printf("%016lx\n", digest);
  return 0;
}
