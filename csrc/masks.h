// Vectors of which some lanes are neither read nor written, where the processor has such: what lies beyond a map's border
// reads as zero, whatever stands in memory there, and no padded copy is needed.
#pragma once
#include "simd.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#define ACMIX_HAS_MASKS 1
#define ACMIX_HAS_FOLDS 1

namespace acmix::ACMIX_ISA {

using Mask = __mmask16;
constexpr int64_t kMaskLanes = 16;
constexpr bool kCuts = true;  // vectors across two cache lines are cut from others

// Lanes first..last, cut to those that there are.
ACMIX_INLINE Mask lanes_between(int64_t first, int64_t last) {
  const uint32_t below = last <= 0 ? 0 : last >= kMaskLanes ? 0xffffu : (1u << last) - 1;
  const uint32_t under = first <= 0 ? 0 : first >= kMaskLanes ? 0xffffu : (1u << first) - 1;
  return static_cast<Mask>(below & ~under);
}

ACMIX_INLINE Mask all_lanes() { return 0xffff; }

// Zeros in the other lanes, whose memory is not read.
ACMIX_INLINE Vector<float> load_lanes(Mask mask, const float* from) {
  Vector<float> value = _mm512_maskz_loadu_ps(mask, from);
  keep(value);
  return value;
}

// The first lanes, as many as are in the mask.
ACMIX_INLINE void store_lanes(Mask mask, float* to, Vector<float> value) { _mm512_mask_storeu_ps(to, mask, value); }

// A folded vector: its halves come from two places, and go to two. Of each half the mask has the lanes.
constexpr int kHalf = kMaskLanes / 2;
ACMIX_INLINE Vector<float> load_folded(Mask mask, const float* lower, const float* upper) {
  return _mm512_mask_loadu_ps(load_lanes(mask, lower), static_cast<Mask>(mask << kHalf), upper - kHalf);
}
ACMIX_INLINE void store_folded(Mask mask, float* lower, float* upper, Vector<float> value) {
  store_lanes(mask, lower, value);
  store_lanes(static_cast<Mask>(mask << kHalf), upper - kHalf, value);
}

// Of two rows, each of which has a half of both vectors: their lanes from O on.
template <int O>
ACMIX_INLINE Vector<float> folded_lanes_from(Vector<float> left, Vector<float> right) {
  constexpr auto place = [](int lane) {
    const int half = lane & kHalf, from = lane % kHalf + O;
    return half + (from < kHalf ? from : from + kHalf);
  };
  const __m512i places = _mm512_setr_epi32(place(0), place(1), place(2), place(3), place(4), place(5), place(6), place(7), place(8),
                                           place(9), place(10), place(11), place(12), place(13), place(14), place(15));
  return _mm512_permutex2var_ps(left, places, right);
}

// The same in scratch memory, where the others are there as well: they are left as they are, ...
ACMIX_INLINE void store_among(Mask mask, float* to, Vector<float> value) { store_lanes(mask, to, value); }

// ... or become zeros, unless they are zeros.
ACMIX_INLINE void store_or_zeros(Mask mask, float* to, Vector<float> value) { store_lanes(mask, to, value); }

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

// Every second entry of two vectors side by side in the order that costs least, and from that order to theirs or back.
template <int FIRST>
ACMIX_INLINE Vector<float> picked(Vector<float> left, Vector<float> right) {
  return every_second<FIRST>(left, right);
}
ACMIX_INLINE Vector<float> reordered(Vector<float> entries) { return entries; }
ACMIX_INLINE Mask reordered(Mask mask) { return mask; }

// Picked entries of two vectors in turn: the first half of them, or the second.
ACMIX_INLINE Vector<float> interleaved_picked(Vector<float> even, Vector<float> odd, int half) { return interleaved(even, odd, half); }

// What stands between two vectors of which the right one begins two columns after the left one.
ACMIX_INLINE Vector<float> between(Vector<float> left, Vector<float> right) {
  const __m512i places = _mm512_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 + 14);
  return _mm512_permutex2var_ps(left, places, right);
}

}  // namespace acmix::ACMIX_ISA
#elif defined(__AVX2__)
#define ACMIX_HAS_MASKS 1

namespace acmix::ACMIX_ISA {

// All bits of a lane that is in it; and how many lanes there are up to the last one.
struct Mask {
  __m256i lanes;
  int64_t last;
};
constexpr int64_t kMaskLanes = 8;
constexpr bool kCuts = false;

ACMIX_INLINE __m256i lanes_below(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// Lanes first..last, cut to those that there are.
ACMIX_INLINE Mask lanes_between(int64_t first, int64_t last) {
  last = last < kMaskLanes ? last : kMaskLanes;
  const __m256i below = lanes_below(last);
  return {first <= 0 ? below : _mm256_andnot_si256(lanes_below(first < kMaskLanes ? first : kMaskLanes), below), last};
}

ACMIX_INLINE Mask all_lanes() { return {_mm256_set1_epi32(-1), kMaskLanes}; }

// Zeros in the other lanes, whose memory is not read.
ACMIX_INLINE Vector<float> load_lanes(const Mask& mask, const float* from) {
  Vector<float> value = _mm256_maskload_ps(from, mask.lanes);
  keep(value);
  return value;
}

// The lanes up to the mask's last one, of masks that begin with the first. Processors take long for a vector of which they
// write some lanes.
ACMIX_INLINE void store_lanes(const Mask& mask, float* to, Vector<float> value) {
  if (mask.last >= kMaskLanes) return store(to, value);
  if (mask.last <= 0) return;
  __m128 rest = _mm256_castps256_ps128(value);
  if (mask.last & 4) {
    _mm_storeu_ps(to, rest);
    to += 4, rest = _mm256_extractf128_ps(value, 1);
  }
  if (mask.last & 2) {
    _mm_storel_epi64(reinterpret_cast<__m128i_u*>(to), _mm_castps_si128(rest));
    to += 2, rest = _mm_movehl_ps(rest, rest);
  }
  if (mask.last & 1) _mm_store_ss(to, rest);
}

// The same in scratch memory, where the others are there as well: they are left as they are, ...
ACMIX_INLINE void store_among(const Mask& mask, float* to, Vector<float> value) {
  store<float>(to, _mm256_blendv_ps(load(to), value, _mm256_castsi256_ps(mask.lanes)));
}

// ... or become zeros, unless they are zeros.
ACMIX_INLINE void store_or_zeros(const Mask& mask, float* to, Vector<float> value) {
  store<float>(to, _mm256_and_ps(value, _mm256_castsi256_ps(mask.lanes)));
}

// Lanes from O on of two vectors side by side.
template <int O>
ACMIX_INLINE Vector<float> lanes_from(Vector<float> left, Vector<float> right) {
  static_assert(O > 0 && O < 4, "of the first half");
  const __m256i middle = _mm256_castps_si256(_mm256_permute2f128_ps(left, right, 0x21));
  return _mm256_castsi256_ps(_mm256_alignr_epi8(middle, _mm256_castps_si256(left), 4 * O));
}

// Every second entry of two vectors side by side in the order that costs least, and from that order to theirs or back.
template <int FIRST>
ACMIX_INLINE Vector<float> picked(Vector<float> left, Vector<float> right) {
  return _mm256_shuffle_ps(left, right, FIRST == 0 ? 0x88 : 0xdd);
}
ACMIX_INLINE Vector<float> reordered(Vector<float> entries) {
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(entries), 0xd8));
}
ACMIX_INLINE Mask reordered(const Mask& mask) { return {_mm256_permute4x64_epi64(mask.lanes, 0xd8), mask.last}; }

// Picked entries of two vectors in turn: the first half of them, or the second.
ACMIX_INLINE Vector<float> interleaved_picked(Vector<float> even, Vector<float> odd, int half) {
  return half == 0 ? _mm256_unpacklo_ps(even, odd) : _mm256_unpackhi_ps(even, odd);
}

// Entries of two vectors in turn: the first half of them, or the second.
ACMIX_INLINE Vector<float> interleaved(Vector<float> even, Vector<float> odd, int half) {
  const Vector<float> first = _mm256_unpacklo_ps(even, odd), second = _mm256_unpackhi_ps(even, odd);
  return half == 0 ? _mm256_permute2f128_ps(first, second, 0x20) : _mm256_permute2f128_ps(first, second, 0x31);
}

}  // namespace acmix::ACMIX_ISA
#endif
