// The gradient of the position code's weight: sums over pixels of the keys' gradients times their coordinates.
#pragma once
#include "problem.h"
#include "simd.h"

namespace acmix::ACMIX_ISA {

constexpr int64_t kSummedPixels = 512;  // in float; the sums of so many are added up in double

inline void sum_over_grid(const GridSums& g, int64_t first_row, int64_t last_row) {
  constexpr int64_t lanes = Lanes<float>::count;
  const float *across = g.grid, *down = g.grid + g.pixels;
  for (int64_t row = first_row; row < last_row; ++row) {
    const float* const from = g.rows + row * g.pixels;
    double totals[3]{};
    for (int64_t first = 0; first < g.pixels; first += kSummedPixels) {
      const int64_t last = least(first + kSummedPixels, g.pixels);
      Vector<float> sums[3]{};
      const auto add = [&](Vector<float> entries, Vector<float> x, Vector<float> y) __attribute__((always_inline)) {
        sums[0] += entries * x;
        sums[1] += entries * y;
        sums[2] += entries;
      };
      int64_t i = first;
      for (; i + lanes <= last; i += lanes) add(load(from + i), load(across + i), load(down + i));
      if (i < last) add(load_first(from + i, last - i), load_first(across + i, last - i), load_first(down + i, last - i));
      float sums_of[lanes < 3 ? 3 : lanes];
      sums_of_lanes<3>(sums, sums_of);
      for (int k = 0; k < 3; ++k) totals[k] += static_cast<double>(sums_of[k]);
    }
    for (int k = 0; k < 3; ++k) g.sums[row * 3 + k] = totals[k];
  }
}

}  // namespace acmix::ACMIX_ISA
