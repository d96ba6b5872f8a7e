// Vectors of which some lanes are neither read nor written, where the processor has such: what lies beyond a map's border
// reads as zero, whatever stands in memory there, and no padded copy is needed.
#pragma once
#include "simd.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#define ACMIX_HAS_MASKS 1

namespace acmix::ACMIX_ISA {

using Mask = __mmask16;
constexpr int64_t kMaskLanes = 16;

// Lanes first..last, cut to those that there are.
ACMIX_INLINE Mask lanes_between(int64_t first, int64_t last) {
  const uint32_t below = last <= 0 ? 0 : last >= kMaskLanes ? 0xffffu : (1u << last) - 1;
  const uint32_t under = first <= 0 ? 0 : first >= kMaskLanes ? 0xffffu : (1u << first) - 1;
  return static_cast<Mask>(below & ~under);
}

// Zeros in the other lanes, whose memory is not read.
ACMIX_INLINE Vector<float> load_lanes(Mask mask, const float* from) {
  Vector<float> value = _mm512_maskz_loadu_ps(mask, from);
  asm("" : "+v"(value));
  return value;
}

ACMIX_INLINE void store_lanes(Mask mask, float* to, Vector<float> value) { _mm512_mask_storeu_ps(to, mask, value); }

// Lanes from O on of two vectors side by side.
template <int O>
ACMIX_INLINE Vector<float> lanes_from(Vector<float> left, Vector<float> right) {
  const __m512i lanes = _mm512_maskz_alignr_epi32(0xffff, _mm512_castps_si512(right), _mm512_castps_si512(left), O);
  return _mm512_castsi512_ps(lanes);
}

// Entries of two vectors in turn: the first half of them, or the second.
ACMIX_INLINE Vector<float> interleaved(Vector<float> even, Vector<float> odd, int half) {
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return _mm512_permutex2var_ps(even, _mm512_add_epi32(first, _mm512_set1_epi32(8 * half)), odd);
}

// What stands between two vectors of which the right one begins two columns after the left one.
ACMIX_INLINE Vector<float> between(Vector<float> left, Vector<float> right) {
  const __m512i places = _mm512_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 + 14);
  return _mm512_permutex2var_ps(left, places, right);
}

}  // namespace acmix::ACMIX_ISA
#endif
