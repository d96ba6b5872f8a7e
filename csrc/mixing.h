// The FC and the shifts as one kernel, and its gradient as theirs.
#pragma once
#include "problem.h"
#include "simd.h"

namespace acmix::ACMIX_ISA {

constexpr int kSums = 3;  // of entries, side by side: none waits for its own last step
constexpr int64_t kSummedChannels = 32;  // in float; the sums of so many are added up in double

// Sums of rows of `taps` entries, each times its factor; factors are `apart` from each other.
ACMIX_INLINE void weighted_sum(const float* factors, int64_t apart, const float* rows, int64_t count, int64_t taps, float* to) {
  constexpr int64_t lanes = Lanes<float>::count;
  for (int64_t t = 0; t < taps; t += lanes) {
    const int64_t rest = taps - t;
    Vector<float> sum{};
    if (rest < lanes) {
      for (int64_t i = 0; i < count; ++i) sum += factors[i * apart] * load_first(rows + i * taps + t, rest);
      store_first(to + t, sum, rest);
    } else {
      for (int64_t i = 0; i < count; ++i) sum += factors[i * apart] * load(rows + i * taps + t);
      store(to + t, sum);
    }
  }
}

// Kernels of channels first..last.
inline void compose(const Mixing& m, int64_t first, int64_t last) {
  for (int64_t c = first; c < last; ++c) {
    const float* const shifts = m.shifts + c * m.maps * m.maps;
    float* const to = m.kernels + c * m.pieces * m.maps;
    for (int64_t p = 0; p < m.pieces; ++p) weighted_sum(m.mix + p, m.pieces, shifts, m.maps, m.maps, to + p * m.maps);
  }
}

// Gradients of the shifts of channels first..last.
inline void pull_back_shifts(const Mixing& m, int64_t first, int64_t last) {
  for (int64_t c = first; c < last; ++c) {
    const float* const grads = m.grad_kernels + c * m.pieces * m.maps;
    float* const to = m.grad_shifts + c * m.maps * m.maps;
    for (int64_t i = 0; i < m.maps; ++i) weighted_sum(m.mix + i * m.pieces, 1, grads, m.pieces, m.maps, to + i * m.maps);
  }
}

// Gradients of the FC's rows first..last.
inline void pull_back_mix(const Mixing& m, int64_t first, int64_t last) {
  constexpr int64_t lanes = Lanes<float>::count;
  for (int64_t map = first; map < last; ++map) {
    for (int64_t piece = 0; piece < m.pieces; piece += kSums) {
      const int64_t count = least(kSums, m.pieces - piece);
      double totals[kSums]{};
      for (int64_t begin = 0; begin < m.channels; begin += kSummedChannels) {
        Vector<float> sums[kSums]{};
        for (int64_t c = begin; c < least(begin + kSummedChannels, m.channels); ++c) {
          const float *shift = m.shifts + (c * m.maps + map) * m.maps, *grad = m.grad_kernels + (c * m.pieces + piece) * m.maps;
          for (int64_t t = 0; t < m.maps; t += lanes) {
            const int64_t rest = m.maps - t;
            const auto from = [&](const float* row) { return rest < lanes ? load_first(row + t, rest) : load(row + t); };
            const Vector<float> of_map = from(shift);
            ACMIX_UNROLL
            for (int64_t i = 0; i < kSums; ++i) sums[i] += of_map * from(grad + least(i, count - 1) * m.maps);
          }
        }
        float of_lanes[lanes];
        sums_of_lanes<kSums>(sums, of_lanes);
        for (int64_t i = 0; i < kSums; ++i) totals[i] += static_cast<double>(of_lanes[i]);
      }
      for (int64_t i = 0; i < count; ++i) m.grad_mix[map * m.pieces + piece + i] = static_cast<float>(totals[i]);
    }
  }
}

}  // namespace acmix::ACMIX_ISA
