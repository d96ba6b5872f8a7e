// A convolution of many small groups, forward: a unit is some output rows of one group of one image.
#pragma once
#include "packed_row.h"

namespace acmix::ACMIX_ISA {

constexpr int64_t kConvolutionRows = kRegisters == 32 ? 16 : 18;  // output rows of a unit, whole tiles
constexpr int64_t kOutputs = 4, kPlaces = 3;  // a register tile: outputs of a group, vectors of pixels

struct GroupPlan {
  const GroupConvolution& call;
  int64_t pad, inputs, columns;  // zeros on each side; pieces and the ones; output columns, a multiple of the lanes
  PackedRow row;
  Scratch<int64_t> memory;
  int64_t* offsets;  // where the pixels of each kernel column begin in a packed row

  GroupPlan(const GroupConvolution& c, int64_t lanes)
      : call(c), pad((c.kernel - 1) / 2 * c.dilation), inputs(c.pieces + (c.ones ? 1 : 0)),
        columns(round_up(c.out_columns, lanes)), row(c.columns, pad, columns, c.stride, Border::zero), memory(c.kernel) {
    offsets = memory.take(c.kernel);
    for (int64_t x = 0; x < c.kernel; ++x) offsets[x] = row.place(x * c.dilation);
  }

  int64_t taps() const { return call.kernel * call.kernel; }
  int64_t row_size() const { return inputs * row.entries(); }
  int64_t rows_read(int64_t rows) const { return (rows - 1) * call.stride + 2 * pad + 1; }

  ACMIX_INLINE void plain_row(const float* from, float* to) const { row.read_plain(from, to); }
  ACMIX_INLINE void plain_row(const float*, double*) const {}  // only float32 is plain

  // Padded rows first.. of a group: [rows][inputs][entries]. Piece by piece, as they lie in memory.
  template <class T>
  void pack(int64_t batch, int64_t group, int64_t first, int64_t rows, T* to) const {
    const int64_t *s = call.x.strides, entries = row.entries();
    const bool plain = row.is_plain(call.x);
    const float* from = static_cast<const float*>(call.x.data) + batch * s[0] + group * s[1];
    for (int64_t input = 0; input < inputs; ++input) {
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t at = first + i - pad;
        T* line = to + i * row_size() + input * entries;
        if (at < 0 || at >= call.height) {
          ::memset(static_cast<void*>(line), 0, entries * sizeof(T));
        } else if (plain && input < call.pieces) {
          plain_row(from + input * s[2] + at * s[3], line);
        } else if (input < call.pieces) {
          row.read(call.x, batch * s[0] + group * s[1] + input * s[2] + at * s[3], s[4], line);
          row.complete(line);
        } else {
          row.ones(line);
        }
      }
    }
  }
};

// Kernels of a group, [outputs][inputs][taps], in the order in which they are multiplied: blocks of up to four outputs,
// [inputs][taps][outputs of the block] each.
template <class T>
inline void arrange(const T* weight, int64_t outputs, int64_t inputs, int64_t taps, T* to) {
  for (int64_t first = 0; first < outputs; first += kOutputs) {
    const int64_t last = least(first + kOutputs, outputs);
    for (int64_t i = 0; i < inputs * taps; ++i) {
      for (int64_t o = first; o < last; ++o) *to++ = weight[o * inputs * taps + i];
    }
  }
}

// Packed rows and how kernels walk over them.
struct Walk {
  int64_t inputs, kernel, entries, kernel_row, stride_row;  // entries between kernel rows, between output rows
  const int64_t* offsets;
};

// K: the kernel's side at compile time, or 0.
template <int K, int NO, int NV, class T>
ACMIX_APART void convolve(const Walk& walk, const T* const* in, const T* weights, T* const* out, int64_t channel) {
  Vector<T> sums[NO][NV];
  ACMIX_UNROLL
  for (int o = 0; o < NO; ++o) {
    ACMIX_UNROLL
    for (int v = 0; v < NV; ++v) sums[o][v] = Vector<T>{};
  }
  const T* from[NV];
  ACMIX_UNROLL
  for (int v = 0; v < NV; ++v) from[v] = in[v];
  const int64_t kernel = K ? K : walk.kernel;
  for (int64_t i = 0; i < walk.inputs; ++i) {
    for (int64_t ky = 0; ky < kernel; ++ky) {
      const int64_t base = i * walk.entries + ky * walk.kernel_row;
      const auto column = [&](int64_t kx) __attribute__((always_inline)) {
        const int64_t offset = base + walk.offsets[kx];
        Vector<T> pixel[NV];
        ACMIX_UNROLL
        for (int v = 0; v < NV; ++v) pixel[v] = load_once(from[v] + offset);
        ACMIX_UNROLL
        for (int o = 0; o < NO; ++o) {
          ACMIX_UNROLL
          for (int v = 0; v < NV; ++v) sums[o][v] += weights[o] * pixel[v];
        }
        weights += NO;
      };
      if constexpr (K == 0) {
        for (int64_t kx = 0; kx < kernel; ++kx) column(kx);
      } else {
        ACMIX_UNROLL
        for (int64_t kx = 0; kx < kernel; ++kx) column(kx);
      }
    }
  }
  ACMIX_UNROLL
  for (int o = 0; o < NO; ++o) {
    ACMIX_UNROLL
    for (int v = 0; v < NV; ++v) store(out[v] + o * channel, sums[o][v]);
  }
}

template <int NO, class T>
ACMIX_INLINE void convolve_places(const Walk& walk, int64_t places, const T* const* in, const T* weights, T* const* out,
                                  int64_t channel) {
  if (!kSmall && places == 3 && walk.kernel == 3) convolve<kSmall ? 0 : 3, NO, 3>(walk, in, weights, out, channel);
  else if (places == 3) convolve<0, NO, 3>(walk, in, weights, out, channel);
  else if (places == 2) convolve<0, NO, 2>(walk, in, weights, out, channel);
  else convolve<0, NO, 1>(walk, in, weights, out, channel);
}

// All outputs of `rows` output rows: out [outputs][rows][columns] from packed rows and arranged weights.
template <class T>
void convolve_rows(const Walk& walk, const T* packed, const T* weights, int64_t outputs, int64_t rows, int64_t columns,
                   T* out) {
  constexpr int64_t lanes = Lanes<T>::count;
  const int64_t vectors = columns / lanes, channel = rows * columns;
  for (int64_t place = 0, places; place < rows * vectors; place += places) {
    const int64_t left = rows * vectors - place;
    places = left == 4 ? 2 : least(left, kPlaces);
    const T* in[kPlaces];
    for (int64_t v = 0; v < places; ++v) {
      in[v] = packed + (place + v) / vectors * walk.stride_row + (place + v) % vectors * lanes;
    }
    const T* block = weights;
    for (int64_t o = 0, count; o < outputs; o += count) {
      count = least(kOutputs, outputs - o);
      T* to[kPlaces];
      for (int64_t v = 0; v < places; ++v) {
        to[v] = out + o * channel + (place + v) / vectors * columns + (place + v) % vectors * lanes;
      }
      if (count == 4) convolve_places<4>(walk, places, in, block, to, channel);
      else if (count == 3) convolve_places<3>(walk, places, in, block, to, channel);
      else if (count == 2) convolve_places<2>(walk, places, in, block, to, channel);
      else convolve_places<1>(walk, places, in, block, to, channel);
      block += count * walk.inputs * walk.kernel * walk.kernel;
    }
  }
}

inline int64_t convolution_blocks(const GroupConvolution& c) {
  return (c.bottom - c.top + kConvolutionRows - 1) / kConvolutionRows;
}

inline int64_t convolution_forward_units(const GroupConvolution& c) { return c.groups * c.batch * convolution_blocks(c); }

// Some output rows of a group of an image; group by group, whose kernels are arranged once for all images.
struct ConvolutionUnit {
  int64_t group, batch, top, bottom;

  ConvolutionUnit(const GroupConvolution& c, int64_t unit) {
    const int64_t blocks = convolution_blocks(c);
    batch = unit % c.batch, group = unit / c.batch / blocks;
    top = c.top + unit / c.batch % blocks * kConvolutionRows, bottom = least(top + kConvolutionRows, c.bottom);
  }
};

template <class T>
void convolution_forward(const GroupConvolution& c, int64_t first_unit, int64_t last_unit) {
  const GroupPlan plan(c, Lanes<T>::count);
  const int64_t size = c.outputs * plan.inputs * plan.taps(), row_size = plan.row_size();
  const int64_t most_in = plan.rows_read(kConvolutionRows) * row_size, most_out = c.outputs * kConvolutionRows * plan.columns;
  using S = Scratch<T>;
  S scratch(S::size_of(size) + S::size_of(most_in) + S::size_of(most_out));
  T* const weights = scratch.take(size);
  T* const packed = scratch.take(most_in);
  T* const result = scratch.take(most_out);
  const Walk walk{plan.inputs, c.kernel, plan.row.entries(), c.dilation * row_size, c.stride * row_size, plan.offsets};
  int64_t arranged = -1;
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const auto [group, batch, top, bottom] = ConvolutionUnit(c, unit);
    const int64_t rows = bottom - top;
    if (group != arranged) arrange(static_cast<const T*>(c.weight) + group * size, c.outputs, plan.inputs, plan.taps(), weights);
    arranged = group;
    plan.pack(batch, group, top * c.stride, plan.rows_read(rows), packed);
    convolve_rows(walk, packed, weights, c.outputs, rows, plan.columns, result);
    const int64_t* s = c.out.strides;
    for (int64_t o = 0; o < c.outputs; ++o) {
      for (int64_t y = 0; y < rows; ++y) {
        const int64_t offset = batch * s[0] + group * s[1] + o * s[2] + (top + y) * s[3];
        const T* from = result + (o * rows + y) * plan.columns;
        if (c.adds) add_row(c.out, offset, c.out_columns, s[4], from);
        else write_row(c.out, offset, c.out_columns, s[4], from);
      }
    }
  }
}

}  // namespace acmix::ACMIX_ISA
