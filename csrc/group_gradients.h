// The gradients of a convolution of many small groups: a unit is one group over the whole batch, so that the sums of
// the kernels' gradients always run in one order.
#pragma once
#include "group_winograd.h"

namespace acmix::ACMIX_ISA {

// Output rows and columns; vectors of columns reach `padded`, where gradients are zeros.
struct GradRows {
  int64_t rows, columns, padded;
};

// Sums over pixels of NO gradients times NX kernel columns of one input; `sums` [NO][NX] vectors are added to. What lanes
// behind the last output read is an output's neighbour, which may be NaN, and is left out.
template <int NO, int NX, class T>
ACMIX_APART void correlate(const Walk& walk, const T* grads, int64_t channel, const GradRows& of, const T* packed,
                            const int64_t* offsets, T* sums) {
  constexpr int64_t lanes = Lanes<T>::count;
  Vector<T> total[NO][NX];
  ACMIX_UNROLL
  for (int o = 0; o < NO; ++o) {
    ACMIX_UNROLL
    for (int k = 0; k < NX; ++k) total[o][k] = load(sums + (o * NX + k) * lanes);
  }
  const auto add = [&](int64_t y, int64_t x, auto read) __attribute__((always_inline)) {
    Vector<T> pixel[NX];
    ACMIX_UNROLL
    for (int k = 0; k < NX; ++k) pixel[k] = read(packed + y * walk.stride_row + offsets[k] + x);
    ACMIX_UNROLL
    for (int o = 0; o < NO; ++o) {
      const Vector<T> grad = load_once(grads + o * channel + y * of.padded + x);
      ACMIX_UNROLL
      for (int k = 0; k < NX; ++k) total[o][k] += grad * pixel[k];
    }
  };
  const int64_t whole = of.columns / lanes * lanes, rest = of.columns - whole;
  for (int64_t y = 0; y < of.rows; ++y) {
    for (int64_t x = 0; x < whole; x += lanes) add(y, x, [](const T* from) { return load_once(from); });
    if (rest) add(y, whole, [&](const T* from) { return first_lanes<T>(load(from), rest); });
  }
  ACMIX_UNROLL
  for (int o = 0; o < NO; ++o) {
    ACMIX_UNROLL
    for (int k = 0; k < NX; ++k) store(sums + (o * NX + k) * lanes, total[o][k]);
  }
}

template <int NO, class T>
ACMIX_INLINE void correlate_columns(const Walk& walk, int64_t count, const T* grads, int64_t channel, const GradRows& of,
                                    const T* packed, const int64_t* offsets, T* sums) {
  if (count == 3) correlate<NO, 3>(walk, grads, channel, of, packed, offsets, sums);
  else if (count == 2) correlate<NO, 2>(walk, grads, channel, of, packed, offsets, sums);
  else correlate<NO, 1>(walk, grads, channel, of, packed, offsets, sums);
}

// Calls body(first output, outputs, input, kernel row, first kernel column, kernel columns, place of their sums).
template <class F>
ACMIX_INLINE void for_each_block(const GroupPlan& plan, F body) {
  int64_t place = 0;
  for (int64_t o = 0, outputs; o < plan.call.outputs; o += outputs) {
    outputs = least(kOutputs, plan.call.outputs - o);
    for (int64_t i = 0; i < plan.inputs; ++i) {
      for (int64_t ky = 0; ky < plan.call.kernel; ++ky) {
        for (int64_t kx = 0, count; kx < plan.call.kernel; kx += count) {
          count = least(3, plan.call.kernel - kx);
          body(o, outputs, i, ky, kx, count, place);
          place += outputs * count;
        }
      }
    }
  }
}

template <class T>
void correlate_rows(const GroupPlan& plan, const Walk& walk, const T* grads, int64_t rows, const T* packed, T* sums) {
  const int64_t channel = rows * plan.columns;
  const GradRows of{rows, plan.call.out_columns, plan.columns};
  for_each_block(plan, [&](int64_t o, int64_t outputs, int64_t i, int64_t ky, int64_t kx, int64_t count, int64_t place) {
    const T* from = packed + i * walk.entries + ky * walk.kernel_row;
    const T* grad = grads + o * channel;
    T* to = sums + place * Lanes<T>::count;
    const int64_t* offsets = plan.offsets + kx;
    if (outputs == 4) correlate_columns<4>(walk, count, grad, channel, of, from, offsets, to);
    else if (outputs == 3) correlate_columns<3>(walk, count, grad, channel, of, from, offsets, to);
    else if (outputs == 2) correlate_columns<2>(walk, count, grad, channel, of, from, offsets, to);
    else correlate_columns<1>(walk, count, grad, channel, of, from, offsets, to);
  });
}

// Strided: what each output pixel gives to the inputs that it reads, added to packed rows [rows][pieces][entries].
template <class T>
void scatter_rows(const GroupPlan& plan, const T* weight, const T* grads, int64_t rows, T* packed) {
  const GroupConvolution& c = plan.call;
  const int64_t entries = plan.row.entries(), channel = rows * plan.columns, taps = plan.taps();
  for (int64_t y = 0; y < rows; ++y) {
    for (int64_t ky = 0; ky < c.kernel; ++ky) {
      for (int64_t piece = 0; piece < c.pieces; ++piece) {
        T* row = packed + ((y * c.stride + ky * c.dilation) * c.pieces + piece) * entries;
        for (int64_t kx = 0; kx < c.kernel; ++kx) {
          T* to = row + plan.offsets[kx];
          const T* factor = weight + piece * taps + ky * c.kernel + kx;
          for (int64_t x = 0; x < plan.columns; x += Lanes<T>::count) {
            Vector<T> sum = load(to + x);
            for (int64_t o = 0; o < c.outputs; ++o) {
              sum += factor[o * plan.inputs * taps] * load(grads + o * channel + y * plan.columns + x);
            }
            store(to + x, sum);
          }
        }
      }
    }
  }
}

inline int64_t convolution_backward_units(const GroupConvolution& c) { return c.groups; }

// Of one group: the kernels' gradients and, at a stride, the inputs'.
template <class T>
class GroupBackward {
 public:
  explicit GroupBackward(const GroupConvolution& c)
      : c_(c), plan_(c, lanes), row_size_(plan_.row_size()), sums_size_(c.outputs * plan_.inputs * plan_.taps() * lanes),
        scattered_size_(c.stride == 1 ? 0 : (plan_.rows_read(c.out_height)) * c.pieces * plan_.row.entries()),
        scratch_(S::size_of(sums_size_) + S::size_of(sums_size_ / lanes) +
                 S::size_of(plan_.rows_read(kConvolutionRows) * row_size_) +
                 S::size_of(c.outputs * kConvolutionRows * plan_.columns) + S::size_of(scattered_size_) + S::size_of(c.columns)),
        sums_(scratch_.take(sums_size_)), totals_(scratch_.take(sums_size_ / lanes)),
        packed_(scratch_.take(plan_.rows_read(kConvolutionRows) * row_size_)),
        grads_(scratch_.take(c.outputs * kConvolutionRows * plan_.columns)), scattered_(scratch_.take(scattered_size_)),
        line_(scratch_.take(c.columns)),
        walk_{plan_.inputs, c.kernel, plan_.row.entries(), c.dilation * row_size_, c.stride * row_size_, plan_.offsets} {}

  void run(int64_t group) {
    const int64_t size = c_.outputs * plan_.inputs * plan_.taps();
    const T* weight = static_cast<const T*>(c_.weight) + group * size;
    ::memset(static_cast<void*>(sums_), 0, sums_size_ * sizeof(T));
    for (int64_t batch = 0; batch < c_.batch; ++batch) {
      ::memset(static_cast<void*>(scattered_), 0, scattered_size_ * sizeof(T));
      for (int64_t top = 0; top < c_.out_height; top += kConvolutionRows) {
        const int64_t rows = least(kConvolutionRows, c_.out_height - top);
        plan_.pack(batch, group, top * c_.stride, plan_.rows_read(rows), packed_);
        read_grads(batch, group, top, rows);
        correlate_rows(plan_, walk_, grads_, rows, packed_, sums_);
        if (c_.stride == 1) continue;
        scatter_rows(plan_, weight, grads_, rows, scattered_ + top * c_.stride * c_.pieces * plan_.row.entries());
      }
      if (c_.stride != 1) write_inputs(batch, group);
    }
    sums_of_lanes(sums_, size, totals_);
    T* grad_weight = static_cast<T*>(c_.grad_weight) + group * size;
    for_each_block(plan_, [&](int64_t o, int64_t outputs, int64_t i, int64_t ky, int64_t kx, int64_t count, int64_t place) {
      for (int64_t n = 0; n < outputs; ++n) {
        for (int64_t k = 0; k < count; ++k) {
          grad_weight[((o + n) * plan_.inputs + i) * plan_.taps() + ky * c_.kernel + kx + k] = totals_[place + n * count + k];
        }
      }
    });
  }

 private:
  static constexpr int64_t lanes = Lanes<T>::count;
  using S = Scratch<T>;

  // [outputs][rows][columns]; what lies behind the map's columns is zero.
  void read_grads(int64_t batch, int64_t group, int64_t top, int64_t rows) {
    const int64_t* s = c_.grad.strides;
    for (int64_t o = 0; o < c_.outputs; ++o) {
      for (int64_t y = 0; y < rows; ++y) {
        T* to = grads_ + (o * rows + y) * plan_.columns;
        read_row(c_.grad, batch * s[0] + group * s[1] + o * s[2] + (top + y) * s[3], c_.out_columns, s[4], to);
        for (int64_t x = c_.out_columns; x < plan_.columns; ++x) to[x] = 0;
      }
    }
  }

  void write_inputs(int64_t batch, int64_t group) {
    const int64_t* s = c_.grad_x.strides;
    for (int64_t row = 0; row < c_.height; ++row) {
      for (int64_t piece = 0; piece < c_.pieces; ++piece) {
        ::memset(static_cast<void*>(line_), 0, c_.columns * sizeof(T));
        const int64_t padded = row + plan_.pad;
        if (padded < plan_.rows_read(c_.out_height)) {
          plan_.row.add_back(scattered_ + (padded * c_.pieces + piece) * plan_.row.entries(), line_);
        }
        const int64_t offset = batch * s[0] + group * s[1] + piece * s[2] + row * s[3];
        if (c_.adds) add_row(c_.grad_x, offset, c_.columns, s[4], line_);
        else write_row(c_.grad_x, offset, c_.columns, s[4], line_);
      }
    }
  }

  const GroupConvolution& c_;
  GroupPlan plan_;
  int64_t row_size_, sums_size_, scattered_size_;
  S scratch_;
  T *sums_, *totals_, *packed_, *grads_, *scattered_, *line_;
  Walk walk_;
};

// At stride 1 the gradient of the inputs is a convolution of the gradient with turned kernels.
template <class T>
void turned_convolution(const GroupConvolution& c, int64_t first_group, int64_t last_group) {
  const int64_t inputs = c.pieces + (c.ones ? 1 : 0), taps = c.kernel * c.kernel, size = c.outputs * inputs * taps;
  const int64_t turned_size = c.pieces * c.outputs * taps;
  const int64_t groups = last_group - first_group;
  Scratch<T> scratch(turned_size * groups);
  T* const turned = scratch.take(turned_size * groups);
  for (int64_t group = 0; group < groups; ++group) {
    const T* weight = static_cast<const T*>(c.weight) + (first_group + group) * size;
    for (int64_t o = 0; o < c.outputs; ++o) {
      for (int64_t i = 0; i < c.pieces; ++i) {
        for (int64_t tap = 0; tap < taps; ++tap) {
          turned[((group * c.pieces + i) * c.outputs + o) * taps + taps - 1 - tap] = weight[(o * inputs + i) * taps + tap];
        }
      }
    }
  }
  GroupConvolution call = c;
  call.groups = groups;
  call.pieces = c.outputs;
  call.outputs = c.pieces;
  call.ones = false;
  call.top = 0, call.bottom = call.out_height;
  call.x = from_outer(c.grad, first_group);
  call.out = from_outer(c.grad_x, first_group);
  call.weight = turned;
  const int64_t units = convolution_forward_units(call);
#ifdef ACMIX_HAS_MASKS
  if constexpr (sizeof(T) == sizeof(float)) {
    if (convolves_by_winograd(call)) return convolution_forward_winograd(call, 0, units);
    if (convolves_directly(call)) return convolution_forward_direct<1>(call, 0, units);
  }
#endif
  convolution_forward<T>(call, 0, units);
}

template <class T>
void convolution_backward(const GroupConvolution& c, int64_t first_unit, int64_t last_unit) {
  if (c.stride == 1) turned_convolution<T>(c, first_unit, last_unit);
  GroupBackward<T> backward(c);
  for (int64_t group = first_unit; group < last_unit; ++group) backward.run(group);
}

}  // namespace acmix::ACMIX_ISA
