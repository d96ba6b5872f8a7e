// The convolution of many small groups, forward, on dense rows of float32 without a packed copy: the zeros beyond the
// border are masked lanes and rows that are left out.
#pragma once
#include "kernel_columns.h"

#ifdef ACMIX_HAS_MASKS
namespace acmix::ACMIX_ISA {

constexpr int64_t kDirectRows = kRegisters == 32 ? 4 : 3;  // output rows of a register tile

inline bool convolves_directly(const GroupConvolution& c) {
  const auto dense = [](const View& view) { return view.dtype == Dtype::float32 && view.strides[4] == 1; };
  return c.kernel == 3 && c.stride <= 2 && c.dilation == 1 && !c.ones && dense(c.x) && dense(c.out);
}

// Rows FROM..TO of a tile with one kernel row; `from` is what its first row reads there.
template <int FROM, int TO, int S, bool WHOLE, int NO, int NR>
ACMIX_INLINE void direct_taps(const DirectPlace& at, const float* from, int64_t row, const float* weights,
                              Vector<float> (&sums)[NR][NO]) {
  if constexpr (!kCuts) {
    asm("" : "+r"(from));  // or compilers keep rows for the next kernel row, which do not fit the registers
  }
  for_each_column<FROM, TO, S, WHOLE>(at, from, row, [&](int kx, const Vector<float>* taps) __attribute__((always_inline)) {
    ACMIX_UNROLL
    for (int o = 0; o < NO; ++o) {
      Vector<float> weight = splat(weights[kx * NO + o]);
      if constexpr (kCuts) keep(weight);
      ACMIX_UNROLL
      for (int r = FROM; r < TO; ++r) sums[r][o] += weight * taps[r];
    }
  });
}

// All kernel rows at a stride of two, input row by input row: every second one is shown to two output rows.
template <int S, bool WHOLE, int NO, int NR>
ACMIX_INLINE void row_taps(const DirectPlace& at, const float* from, int64_t row, const float* weights, Vector<float> (&sums)[NR][NO]) {
  ACMIX_UNROLL
  for (int y = 0; y <= 2 * NR; ++y, from += row) {
    if ((y == 0 && at.top) || (y == 2 * NR && at.bottom)) continue;
    const Columns<S, WHOLE> columns(at, from);
    asm("" : "+r"(weights));  // or compilers keep all weights, which do not fit the registers
    ACMIX_UNROLL
    for (int kx = 0; kx < 3; ++kx) {
      ACMIX_UNROLL
      for (int o = 0; o < NO; ++o) {
        if (y % 2 == 1) {
          sums[y / 2][o] += weights[(3 + kx) * NO + o] * columns.taps[kx];
        } else {
          if (y < 2 * NR) sums[y / 2][o] += weights[kx * NO + o] * columns.taps[kx];
          if (y > 0) sums[y / 2 - 1][o] += weights[(6 + kx) * NO + o] * columns.taps[kx];
        }
      }
    }
  }
}

// NR rows of NO outputs; `from` is one row and one column before the tile, `weights` [pieces][3][3][NO].
template <int S, bool WHOLE, bool INNER, int NO, int NR>
ACMIX_APART void convolve_direct(const GroupConvolution& c, const DirectPlace& at, const float* from, const float* weights,
                                 float* out) {
  Vector<float> sums[NR][NO];
  ACMIX_UNROLL
  for (int r = 0; r < NR; ++r) {
    ACMIX_UNROLL
    for (int o = 0; o < NO; ++o) sums[r][o] = Vector<float>{};
  }
  const int64_t piece = c.x.strides[2], row = c.x.strides[3], channel = c.out.strides[2], out_row = c.out.strides[3];
  const int64_t step = S * row;
  if (c.adds) {
    ACMIX_UNROLL
    for (int o = 0; o < NO; ++o) {
      ACMIX_UNROLL
      for (int r = 0; r < NR; ++r) __builtin_prefetch(out + c.out.strides[1] + o * channel + r * out_row + kMaskLanes / 2, 1);
    }
  }
  for (int64_t i = 0; i < c.pieces; ++i, from += piece, weights += 9 * NO) {
    ACMIX_UNROLL
    for (int r = 0; r < S * NR; ++r) __builtin_prefetch(from + c.x.strides[1] + (r + 1) * row + S * kMaskLanes / 2, 0, 2);
    if constexpr (kCuts && S == 2) {
      row_taps<S, WHOLE>(at, from, row, weights, sums);
      continue;
    }
    if (!INNER && at.top) direct_taps<1, NR, S, WHOLE>(at, from, step, weights, sums);
    else direct_taps<0, NR, S, WHOLE>(at, from, step, weights, sums);
    direct_taps<0, NR, S, WHOLE>(at, from + row, step, weights + 3 * NO, sums);
    if (!INNER && at.bottom) direct_taps<0, NR - 1, S, WHOLE>(at, from + 2 * row, step, weights + 6 * NO, sums);
    else direct_taps<0, NR, S, WHOLE>(at, from + 2 * row, step, weights + 6 * NO, sums);
  }
  ACMIX_UNROLL
  for (int o = 0; o < NO; ++o) {
    ACMIX_UNROLL
    for (int r = 0; r < NR; ++r) {
      float* to = out + o * channel + r * out_row;
      const Vector<float> sum = sums[r][o];
      store_lanes(at.own, to, c.adds ? load_lanes(at.own, to) + sum : sum);
    }
  }
}

// The usual tile, and the one that has a loop of its own where no lane is beyond the border, if that pays. Fewer rows come one by
// one where there are not kOutputs outputs.
template <int S, int NO>
ACMIX_INLINE void convolve_direct_rows(const GroupConvolution& c, const DirectPlace& at, int64_t rows, const float* from,
                                       const float* weights, float* out) {
  if (rows == kDirectRows) {
    if constexpr (NO == kOutputs && !kCuts) {
      const bool inner = !at.top && !at.bottom;
      if (inner && at.whole) return convolve_direct<S, true, true, NO, kDirectRows>(c, at, from, weights, out);
      if (inner) return convolve_direct<S, false, true, NO, kDirectRows>(c, at, from, weights, out);
    }
    return convolve_direct<S, false, false, NO, kDirectRows>(c, at, from, weights, out);
  }
  if constexpr (NO == kOutputs) {
    if constexpr (kDirectRows == 4) {
      if (rows == 3) return convolve_direct<S, false, false, NO, 3>(c, at, from, weights, out);
    }
    if (rows == 2) return convolve_direct<S, false, false, NO, 2>(c, at, from, weights, out);
  }
  DirectPlace row = at;
  for (int64_t r = 0; r < rows; ++r, from += S * c.x.strides[3], out += c.out.strides[3]) {
    row.top = at.top && r == 0, row.bottom = at.bottom && r + 1 == rows;
    convolve_direct<S, false, false, NO, 1>(c, row, from, weights, out);
  }
}

template <int S>
inline void convolution_forward_direct(const GroupConvolution& c, int64_t first_unit, int64_t last_unit) {
  const int64_t size = c.outputs * c.pieces * 9, *s = c.x.strides, *t = c.out.strides;
  Scratch<float> scratch(Scratch<float>::size_of(size));
  float* const weights = scratch.take(size);
  int64_t arranged = -1;
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const auto [group, batch, top, bottom] = ConvolutionUnit(c, unit);
    if (group != arranged) arrange(static_cast<const float*>(c.weight) + group * size, c.outputs, c.pieces, 9, weights);
    arranged = group;
    const float* const from = static_cast<const float*>(c.x.data) + batch * s[0] + group * s[1] - s[3] - 1;
    float* const out = static_cast<float*>(c.out.data) + batch * t[0] + group * t[1];
    for (int64_t x = 0; x < c.out_columns; x += kMaskLanes) {
      DirectPlace at(c, x);
      for (int64_t y = top, rows; y < bottom; y += rows) {
        rows = least(kDirectRows, bottom - y);
        at.top = y == 0, at.bottom = (y + rows - 1) * S + 1 == c.height;
        const float* block = weights;
        for (int64_t o = 0, count; o < c.outputs; o += count, block += count * c.pieces * 9) {
          count = least(kOutputs, c.outputs - o);
          const float* in = from + y * S * s[3] + x * S;
          float* to = out + o * t[2] + y * t[3] + x;
          if (count == 4) convolve_direct_rows<S, 4>(c, at, rows, in, block, to);
          else if (count == 3) convolve_direct_rows<S, 3>(c, at, rows, in, block, to);
          else if (count == 2) convolve_direct_rows<S, 2>(c, at, rows, in, block, to);
          else convolve_direct_rows<S, 1>(c, at, rows, in, block, to);
        }
      }
    }
  }
}

}  // namespace acmix::ACMIX_ISA
#endif
