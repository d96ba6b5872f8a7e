// Loads and stores of some lanes, one by one. Sanitizers of GCC do not look into the compiler's own functions for them;
// a sanitized build includes this file before the kernels.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>

namespace acmix_check {

template <int LANES>
__attribute__((noinline)) void load_some(unsigned mask, const float* from, float* to) {
  for (int lane = 0; lane < LANES; ++lane) to[lane] = mask >> lane & 1 ? from[lane] : 0.0f;
}

__attribute__((noinline)) inline void store_some(unsigned mask, const float* from, float* to) {
  for (int lane = 0; lane < 16; ++lane) {
    if (mask >> lane & 1) to[lane] = from[lane];
  }
}

inline __m256 load_eight(const float* from, __m256i mask) {
  float lanes[8];
  load_some<8>(static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(mask))), from, lanes);
  return _mm256_loadu_ps(lanes);
}
#define _mm256_maskload_ps(from, mask) acmix_check::load_eight(from, mask)

inline void store_eight(float* to, __m256i mask, __m256 value) {
  float lanes[8];
  _mm256_storeu_ps(lanes, value);
  store_some(static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(mask))), lanes, to);
}
#define _mm256_maskstore_ps(to, mask, value) acmix_check::store_eight(to, mask, value)

#if defined(__AVX512F__)
inline __m512 load_sixteen(unsigned mask, const float* from) {
  float lanes[16];
  load_some<16>(mask, from, lanes);
  return _mm512_loadu_ps(lanes);
}
#define _mm512_maskz_loadu_ps(mask, from) acmix_check::load_sixteen(mask, from)

inline void store_sixteen(float* to, unsigned mask, __m512 value) {
  float lanes[16];
  _mm512_storeu_ps(lanes, value);
  store_some(mask, lanes, to);
}
#define _mm512_mask_storeu_ps(to, mask, value) acmix_check::store_sixteen(to, mask, value)
#endif

}  // namespace acmix_check
#endif
