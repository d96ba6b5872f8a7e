// The convolution of many small groups, forward, at a stride of two on dense rows of float32: a few rows at a time are packed
// with their even and odd columns apart and zeros beyond the border. With few registers that takes less than to pick columns
// from memory for each kernel row.
#pragma once
#include "direct_plan.h"
#include "group_direct.h"

#ifdef ACMIX_HAS_MASKS
namespace acmix::ACMIX_ISA {

constexpr bool kStridedRows = kRegisters == 16;  // it was measured there alone
constexpr int64_t kStridedTile = 3;  // output rows of a register tile

// NR rows of NO outputs; `from` [pieces][2 * NR + 1][pitch] from the tile's columns on, `weights` [pieces][3][3][NO].
template <int NO, int NR>
ACMIX_APART void convolve_strided(const GroupConvolution& c, const Mask& own, const float* from, int64_t phase, const float* weights,
                                  float* out) {
  using Column = WindowColumn<3, 2>;
  Vector<float> sums[NR][NO];
  ACMIX_UNROLL
  for (int r = 0; r < NR; ++r) {
    ACMIX_UNROLL
    for (int o = 0; o < NO; ++o) sums[r][o] = Vector<float>{};
  }
  const int64_t channel = c.out.strides[2], row = c.out.strides[3], pitch = 2 * phase;
  if (c.adds) {
    ACMIX_UNROLL
    for (int o = 0; o < NO; ++o) {
      ACMIX_UNROLL
      for (int r = 0; r < NR; ++r) __builtin_prefetch(out + o * channel + r * row + 3 * kMaskLanes / 2, 1);
    }
  }
  for (int64_t i = 0; i < c.pieces; ++i, from += 2 * (NR - 1) * pitch) {
    ACMIX_UNROLL
    for (int ky = 0; ky < 3; ++ky, from += pitch) {
      asm("" : "+r"(from));  // or compilers keep rows for the next kernel row, which do not fit the registers
      ACMIX_UNROLL
      for (int kx = 0; kx < 3; ++kx, weights += NO) {
        Vector<float> taps[NR];
        ACMIX_UNROLL
        for (int r = 0; r < NR; ++r) taps[r] = load_once(from + 2 * r * pitch + Column::phase(kx) * phase + Column::place(kx));
        ACMIX_UNROLL
        for (int o = 0; o < NO; ++o) {
          const Vector<float> weight = splat(weights[o]);
          ACMIX_UNROLL
          for (int r = 0; r < NR; ++r) sums[r][o] += weight * taps[r];
        }
      }
    }
  }
  ACMIX_UNROLL
  for (int o = 0; o < NO; ++o) {
    ACMIX_UNROLL
    for (int r = 0; r < NR; ++r) {
      float* to = out + o * channel + r * row;
      store_lanes(own, to, c.adds ? load_lanes(own, to) + sums[r][o] : sums[r][o]);
    }
  }
}

template <int NO>
ACMIX_INLINE void convolve_strided_rows(const GroupConvolution& c, const Mask& own, int64_t rows, const float* from, int64_t phase,
                                        const float* weights, float* out) {
  if (rows == 3) convolve_strided<NO, 3>(c, own, from, phase, weights, out);
  else if (rows == 2) convolve_strided<NO, 2>(c, own, from, phase, weights, out);
  else convolve_strided<NO, 1>(c, own, from, phase, weights, out);
}

// What `rows` output rows from `y` on read: [pieces][2 * rows + 1][2 * phase]. `from` is one image's group.
inline void pack_strided(const GroupConvolution& c, const float* from, int64_t y, int64_t rows, int64_t phase, float* to) {
  const int64_t piece = c.x.strides[2], row = c.x.strides[3], first = 2 * y - 1, last = first + 2 * rows;
  for (int64_t i = 0; i < c.pieces; ++i, from += piece) {
    for (int64_t at = first; at <= last; ++at, to += 2 * phase) {
      const float* const ahead = from + (at + 2 * rows) * row;
      if (at < 0 || at >= c.height) ::memset(static_cast<void*>(to), 0, 2 * phase * sizeof(float));
      else pack_row<3, 2>(from + at * row, nullptr, 1, ahead, c.columns, phase, to);
    }
  }
}

inline void convolution_forward_strided(const GroupConvolution& c, int64_t first_unit, int64_t last_unit) {
  const int64_t size = c.outputs * c.pieces * 9, *s = c.x.strides, *t = c.out.strides;
  const int64_t phase = round_up(c.out_columns, kMaskLanes) + kMaskLanes, band = c.pieces * (2 * kStridedTile + 1) * 2 * phase;
  Scratch<float> scratch(Scratch<float>::size_of(size) + Scratch<float>::size_of(band));
  float* const weights = scratch.take(size);
  float* const packed = scratch.take(band);
  int64_t arranged = -1;
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const auto [group, batch, top, bottom] = ConvolutionUnit(c, unit);
    if (group != arranged) arrange(static_cast<const float*>(c.weight) + group * size, c.outputs, c.pieces, 9, weights);
    arranged = group;
    const float* const from = static_cast<const float*>(c.x.data) + batch * s[0] + group * s[1];
    float* const out = static_cast<float*>(c.out.data) + batch * t[0] + group * t[1];
    for (int64_t y = top, rows; y < bottom; y += rows) {
      rows = least(kStridedTile, bottom - y);
      pack_strided(c, from, y, rows, phase, packed);
      for (int64_t x = 0; x < c.out_columns; x += kMaskLanes) {
        const Mask own = lanes_between(0, c.out_columns - x);
        const float* block = weights;
        for (int64_t o = 0, count; o < c.outputs; o += count, block += count * c.pieces * 9) {
          count = least(kOutputs, c.outputs - o);
          float* const to = out + o * t[2] + y * t[3] + x;
          if (count == 4) convolve_strided_rows<4>(c, own, rows, packed + x, phase, block, to);
          else if (count == 3) convolve_strided_rows<3>(c, own, rows, packed + x, phase, block, to);
          else if (count == 2) convolve_strided_rows<2>(c, own, rows, packed + x, phase, block, to);
          else convolve_strided_rows<1>(c, own, rows, packed + x, phase, block, to);
        }
      }
    }
  }
}

}  // namespace acmix::ACMIX_ISA
#endif
