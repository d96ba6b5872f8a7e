// The convolution of many small groups, forward, on dense rows of float32: two output rows at a time by Winograd's minimal
// filtering F(2, 3) down the columns, which takes four products where there were six. Rows are transformed once for all
// outputs and kernel columns; the zeros beyond the border stand in them.
#pragma once
#include "group_direct.h"

#ifdef ACMIX_HAS_MASKS
namespace acmix::ACMIX_ISA {

constexpr int kTransforms = 4;  // transformed rows of two output rows
constexpr int64_t kTransformedPlaces = kRegisters == 32 ? 4 : 3;  // vectors of columns in a register tile
// Columns of a map: where they are fewer, transforms cost what they save; transformed rows of more would leave the second cache.
constexpr int64_t kFewestColumns = 2 * kMaskLanes + 1, kMostColumns = 1024;

static_assert(kConvolutionRows % 2 == 0, "units are made of whole pairs of rows");

inline bool convolves_by_winograd(const GroupConvolution& c) {
  const bool fits = c.columns >= kFewestColumns && c.columns <= kMostColumns && c.out_height > 1;
  // Pairs of rows begin with the map's first one: parts of a map then have the same bits as the whole.
  return fits && c.top % 2 == 0 && c.stride == 1 && c.outputs % kOutputs == 0 && convolves_directly(c);
}

// Kernels of a block of outputs, [pieces][3][3][kOutputs], transformed: [kTransforms][pieces][3][kOutputs].
inline void transform_kernels(const float* weights, int64_t pieces, float* to) {
  const int64_t transform = pieces * 3 * kOutputs, row = 3 * kOutputs;
  for (int64_t i = 0; i < pieces; ++i, weights += 3 * row, to += row) {
    for (int64_t j = 0; j < row; ++j) {
      const float above = weights[j], middle = weights[row + j], below = weights[2 * row + j];
      const float ends = 0.5f * (above + below), half = 0.5f * middle;
      to[j] = above, to[transform + j] = ends + half, to[2 * transform + j] = ends - half, to[3 * transform + j] = below;
    }
  }
}

// Transformed rows: [kTransforms][pieces][pitch], a vector of zeros before the first column and one behind the last.
struct TransformedRows {
  int64_t pieces, pitch;

  explicit TransformedRows(const GroupConvolution& c) : pieces(c.pieces), pitch(round_up(c.columns, kMaskLanes) + 2 * kMaskLanes) {}

  int64_t transform() const { return pieces * pitch; }
  int64_t size() const { return kTransforms * transform(); }
};

// Of the four rows of each piece that output rows y and y + 1 see; there are those before `last`. `from` is the first piece's
// first row, `zeros` a row of them.
inline void transform_rows(const GroupConvolution& c, const TransformedRows& rows, const float* from, int64_t y, int64_t last,
                           const float* zeros, float* to) {
  const int64_t row = c.x.strides[3], transform = rows.transform();
  to += kMaskLanes;
  for (int64_t i = 0; i < rows.pieces; ++i, from += c.x.strides[2], to += rows.pitch) {
    const float* at[kTransforms];
    for (int64_t j = 0; j < kTransforms; ++j) at[j] = y + j < 1 || y + j > last ? zeros : from + (y + j - 1) * row;
    const auto vector = [&](int64_t x, auto read_from) __attribute__((always_inline)) {
      Vector<float> read[kTransforms];
      ACMIX_UNROLL
      for (int j = 0; j < kTransforms; ++j) read[j] = read_from(at[j] + x);
      store(to + x, read[0] - read[2]);
      store(to + transform + x, read[1] + read[2]);
      store(to + 2 * transform + x, read[2] - read[1]);
      store(to + 3 * transform + x, read[1] - read[3]);
    };
    int64_t x = 0;
    for (; x + kMaskLanes <= c.columns; x += kMaskLanes) vector(x, [](const float* of) { return load(of); });
    const Mask rest = lanes_between(0, c.columns - x);
    if (x < c.columns) vector(x, [&](const float* of) { return load_lanes(rest, of); });
  }
}

// What the columns of a kernel row see of NV vectors of a transformed row, which begin at `from`. Vectors of 64 bytes across two
// cache lines take long to read: those are cut from the vectors on both sides.
template <int NV>
struct TransformedColumns {
  const float* from;
  Vector<float> read[NV + 2];

  ACMIX_INLINE explicit TransformedColumns(const float* from_) : from(from_) {
    if constexpr (kCuts) {
      ACMIX_UNROLL
      for (int v = 0; v < NV + 2; ++v) read[v] = load_once(from + (v - 1) * kMaskLanes);
    }
  }

  template <int KX>
  ACMIX_INLINE Vector<float> vector(int v) const {
    if constexpr (!kCuts) return load_once(from + KX - 1 + v * kMaskLanes);
    else if constexpr (KX == 0) return lanes_from<kMaskLanes - 1>(read[v], read[v + 1]);
    else if constexpr (KX == 1) return read[v + 1];
    else return lanes_from<1>(read[v + 1], read[v + 2]);
  }
};

// What is asked for while a transform is multiplied: two lines of each piece, and of an output the lines that its sums are added to.
struct TransformAhead {
  const float* piece;
  int64_t pieces;    // entries from piece to piece
  const float* out;  // or null
  int64_t out_row;
};

// One transform of kOutputs outputs and NV vectors of columns from `from` on, to [kOutputs][kTransformedPlaces] vectors.
template <int NV>
ACMIX_APART void multiply_transformed(const TransformedRows& rows, const float* from, const float* weights, TransformAhead ahead, float* to) {
  if (ahead.out != nullptr) {
    ACMIX_UNROLL
    for (int v = 0; v < NV; ++v) {
      __builtin_prefetch(ahead.out + v * kMaskLanes, 1);
      __builtin_prefetch(ahead.out + ahead.out_row + v * kMaskLanes, 1);
    }
  }
  Vector<float> sums[kOutputs][NV];
  ACMIX_UNROLL
  for (int o = 0; o < kOutputs; ++o) {
    ACMIX_UNROLL
    for (int v = 0; v < NV; ++v) sums[o][v] = Vector<float>{};
  }
  for (int64_t i = 0; i < rows.pieces; ++i, from += rows.pitch, ahead.piece += ahead.pieces) {
    __builtin_prefetch(ahead.piece);
    __builtin_prefetch(ahead.piece + kLineEntries);
    const TransformedColumns<NV> columns(from);
    const auto each = [&](auto column) __attribute__((always_inline)) {
      Vector<float> taps[NV];
      ACMIX_UNROLL
      for (int v = 0; v < NV; ++v) taps[v] = columns.template vector<decltype(column)::value>(v);
      ACMIX_UNROLL
      for (int o = 0; o < kOutputs; ++o) {
        const Vector<float> weight = splat(weights[o]);
        ACMIX_UNROLL
        for (int v = 0; v < NV; ++v) sums[o][v] += weight * taps[v];
      }
      weights += kOutputs;
    };
    each(KernelColumn<0>{});
    each(KernelColumn<1>{});
    each(KernelColumn<2>{});
  }
  ACMIX_UNROLL
  for (int o = 0; o < kOutputs; ++o) {
    ACMIX_UNROLL
    for (int v = 0; v < NV; ++v) store(to + (o * kTransformedPlaces + v) * kMaskLanes, sums[o][v]);
  }
}

// All transforms of some vectors of columns, two at least: [kTransforms][kOutputs][kTransformedPlaces].
// Each asks for a part of the two rows from `next` on, which the next transforms see, and of what is added to at `out`.
ACMIX_INLINE void multiply_all_transformed(const GroupConvolution& c, const TransformedRows& rows, int64_t vectors, const float* from,
                                           const float* weights, const float* next, const float* out, float* to) {
  const int64_t kernels = rows.pieces * 3 * kOutputs, products = kOutputs * kTransformedPlaces * kMaskLanes;
  for (int t = 0; t < kTransforms; ++t, from += rows.transform(), weights += kernels, to += products) {
    const float* const piece = next + t % 2 * c.x.strides[3] + t / 2 * (2 * kLineEntries);
    const TransformAhead ahead{piece, c.x.strides[2], c.adds ? out + t * c.out.strides[2] : nullptr, c.out.strides[3]};
    if (vectors == kTransformedPlaces) multiply_transformed<kTransformedPlaces>(rows, from, weights, ahead, to);
    else if (vectors == 3) multiply_transformed<3>(rows, from, weights, ahead, to);
    else multiply_transformed<2>(rows, from, weights, ahead, to);
  }
}

// What the transforms' products make of COUNT output rows, from column x on.
template <int COUNT>
ACMIX_INLINE void write_transformed(const GroupConvolution& c, const float* products, int64_t vectors, int64_t x, float* out) {
  constexpr int64_t transform = kOutputs * kTransformedPlaces * kMaskLanes;
  for (int64_t v = 0; v < vectors; ++v, x += kMaskLanes, products += kMaskLanes) {
    const auto write = [&](auto add) __attribute__((always_inline)) {
      for (int64_t o = 0; o < kOutputs; ++o) {
        const float* const from = products + o * kTransformedPlaces * kMaskLanes;
        const Vector<float> both = load(from + transform), other = load(from + 2 * transform);
        float* const to = out + o * c.out.strides[2] + x;
        add(to, load(from) + (both + other));
        if (COUNT == 2) add(to + c.out.strides[3], (both - other) - load(from + 3 * transform));
      }
    };
    if (x + kMaskLanes <= c.out_columns) {
      if (c.adds) write([](float* to, Vector<float> sum) { store(to, load(to) + sum); });
      else write([](float* to, Vector<float> sum) { store(to, sum); });
    } else {
      const Mask own = lanes_between(0, c.out_columns - x);
      write([&](float* to, Vector<float> sum) { store_lanes(own, to, c.adds ? load_lanes(own, to) + sum : sum); });
    }
  }
}

inline void convolution_forward_winograd(const GroupConvolution& c, int64_t first_unit, int64_t last_unit) {
  const TransformedRows rows(c);
  const int64_t size = c.outputs * c.pieces * 9, kernels = kTransforms * c.pieces * 3 * kOutputs;
  const int64_t products = kTransforms * kOutputs * kTransformedPlaces * kMaskLanes;
  const int64_t outputs = c.outputs / kOutputs, vectors = (c.out_columns + kMaskLanes - 1) / kMaskLanes;
  const int64_t *s = c.x.strides, *t = c.out.strides;
  using Memory = Scratch<float>;
  Memory scratch(Memory::size_of(rows.size()) + Memory::size_of(c.columns));
  Memory filled(Memory::size_of(size) + Memory::size_of(outputs * kernels) + Memory::size_of(products), Holds::anything);
  float *const transformed = scratch.take(rows.size()), *const zeros = scratch.take(c.columns);
  float *const arranged = filled.take(size), *const weights = filled.take(outputs * kernels), *const result = filled.take(products);
  int64_t ready = -1;
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const auto [group, batch, top, bottom] = ConvolutionUnit(c, unit);
    if (group != ready) {
      arrange(static_cast<const float*>(c.weight) + group * size, c.outputs, c.pieces, 9, arranged);
      for (int64_t o = 0; o < outputs; ++o) transform_kernels(arranged + o * kOutputs * c.pieces * 9, c.pieces, weights + o * kernels);
      ready = group;
    }
    const float* const from = static_cast<const float*>(c.x.data) + batch * s[0] + group * s[1];
    float* const out = static_cast<float*>(c.out.data) + batch * t[0] + group * t[1];
    for (int64_t y = top; y < bottom; y += 2) {
      transform_rows(c, rows, from, y, least(c.height, bottom + 1), zeros, transformed);
      const float* const next = y + 3 < c.height ? from + (y + 3) * s[3] : from + s[1];  // or the next group's first rows
      for (int64_t o = 0; o < outputs; ++o) {
        for (int64_t v = 0, count; v < vectors; v += count) {
          const int64_t left = vectors - v;  // never one: there are three vectors at least
          count = left == kTransformedPlaces + 1 ? kTransformedPlaces - 1 : least(left, kTransformedPlaces);
          const int64_t x = v * kMaskLanes;
          float* const to = out + o * kOutputs * t[2] + y * t[3];
          multiply_all_transformed(c, rows, count, transformed + kMaskLanes + x, weights + o * kernels, next + x, to + x, result);
          if (y + 1 < bottom) write_transformed<2>(c, result, count, x, to);
          else write_transformed<1>(c, result, count, x, to);
        }
      }
    }
  }
}

}  // namespace acmix::ACMIX_ISA
#endif
