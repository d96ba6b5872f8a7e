// The few functions of AVX-512 that the kernels call, lane by lane: their program then runs on processors that have AVX2 alone.
// Included before the kernels, which are compiled without -mavx512f.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace acmix_check {

typedef int Integers __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64)));

inline Floats load_into(Floats value, unsigned mask, const float* from) {
  for (int lane = 0; lane < 16; ++lane) {
    if (mask >> lane & 1) value[lane] = from[lane];
  }
  return value;
}

inline void store_sixteen(float* to, unsigned mask, Floats value) {
  for (int lane = 0; lane < 16; ++lane) {
    if (mask >> lane & 1) to[lane] = value[lane];
  }
}

inline Integers lanes_from(Integers right, Integers left, int first) {
  Integers lanes{};
  for (int lane = 0; lane < 16; ++lane) lanes[lane] = lane + first < 16 ? left[lane + first] : right[lane + first - 16];
  return lanes;
}

inline Floats chosen(Floats left, Integers places, Floats right) {
  Floats lanes{};
  for (int lane = 0; lane < 16; ++lane) lanes[lane] = places[lane] & 16 ? right[places[lane] & 15] : left[places[lane] & 15];
  return lanes;
}

}  // namespace acmix_check

#define __m512 acmix_check::Floats
#define __m512i acmix_check::Integers
#define _mm512_maskz_loadu_ps(mask, from) acmix_check::load_into(acmix_check::Floats{}, mask, from)
#define _mm512_mask_loadu_ps(value, mask, from) acmix_check::load_into(value, mask, from)
#define _mm512_mask_storeu_ps(to, mask, value) acmix_check::store_sixteen(to, mask, value)
#define _mm512_castps_si512(x) reinterpret_cast<acmix_check::Integers>(x)
#define _mm512_castsi512_ps(x) reinterpret_cast<acmix_check::Floats>(x)
#define _mm512_maskz_alignr_epi32(mask, right, left, first) acmix_check::lanes_from(right, left, first)
#define _mm512_permutex2var_ps(left, places, right) acmix_check::chosen(left, places, right)
#undef _mm512_setr_epi32
#define _mm512_setr_epi32(...) (acmix_check::Integers{__VA_ARGS__})
#define _mm512_set1_epi32(x) (acmix_check::Integers{} + (x))
#define _mm512_add_epi32(a, b) ((a) + (b))
#define __AVX512F__ 1
// No register of this processor holds such a vector: what keeps one there is left out.
#define asm(...)
