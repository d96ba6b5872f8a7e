// The gradients of a convolution of many small groups on dense rows of float32: inputs are read where they stand, the
// gradient of the outputs is packed, some rows of a group and an image at a time.
#pragma once
#include "group_gradients.h"

#ifdef ACMIX_HAS_MASKS
namespace acmix::ACMIX_ISA {

inline bool convolves_back_directly(const GroupConvolution& c) {
  const auto dense = [](const View& view) { return view.dtype == Dtype::float32 && view.strides[4] == 1; };
  return c.kernel == 3 && c.stride <= 2 && c.dilation == 1 && !c.ones && dense(c.x) && dense(c.grad) && dense(c.grad_x);
}

// Output rows at a time, at most: those of one tile of columns, and what two inputs show to them, stay in the first cache.
constexpr int64_t kGradRows = 64;

// The gradient of some rows of a group's outputs: [tiles][rows + 1][outputs][lanes], zeros behind the last column. At a stride of
// two with the row below, zeros where there is none; lanes are in picked order and, where vectors are not cut from others, the right neighbours of all
// follow.
struct PackedGrads {
  float* data;
  int64_t tiles, rows, outputs;

  PackedGrads(const GroupConvolution& c, float* to)
      : data(to), tiles((c.out_columns + kMaskLanes - 1) / kMaskLanes), rows(rows_of(c)), outputs(c.outputs) {}

  // As many each time.
  static int64_t rows_of(const GroupConvolution& c) {
    const int64_t blocks = (c.out_height + kGradRows - 1) / kGradRows;
    return blocks == 0 ? 0 : (c.out_height + blocks - 1) / blocks;
  }

  int64_t size() const { return tiles * (rows + 1) * outputs * kMaskLanes; }
  ACMIX_INLINE float* at(int64_t tile, int64_t y, int64_t o) const {
    return data + ((tile * (rows + 1) + y) * outputs + o) * kMaskLanes;
  }
};

constexpr bool holds_neighbours(int stride) { return stride == 2 && !kCuts; }

// Sums over a tile of columns, and rows first..last, of NO gradients times the three columns of one kernel row of NI inputs;
// `sums` [NI][NO][3] vectors are added to, in lanes that are outputs: a NaN in a column that another lane reads is no output's.
// `from` is what the first row reads.
template <int S, bool WHOLE, int NI, int NO>
ACMIX_APART void correlate_direct(const GroupConvolution& c, const DirectPlace& at, const float* grads, int64_t rows,
                                  const float* from, float* const* sums) {
  Vector<float> total[NI][NO][3];
  ACMIX_UNROLL
  for (int i = 0; i < NI; ++i) {
    ACMIX_UNROLL
    for (int o = 0; o < NO; ++o) {
      ACMIX_UNROLL
      for (int kx = 0; kx < 3; ++kx) total[i][o][kx] = load(sums[i] + (o * 3 + kx) * kMaskLanes);
    }
  }
  const int64_t piece = c.x.strides[2], row = S * c.x.strides[3], step = c.outputs * kMaskLanes;
  for (int64_t y = 0; y < rows; ++y, from += row, grads += step) {
    if constexpr (kCuts && S == 2) {  // the next inputs
      ACMIX_UNROLL
      for (int i = 0; i < NI; ++i) {
        __builtin_prefetch(from + (NI + i) * piece + kMaskLanes / 2);
        __builtin_prefetch(from + (NI + i) * piece + kMaskLanes + kMaskLanes / 2);
      }
    } else if constexpr (!kCuts) {
      __builtin_prefetch(from + c.x.strides[1] + kMaskLanes / 2, 0, 2);  // of the next group
    }
    Vector<float> grad[NO];
    ACMIX_UNROLL
    for (int o = 0; kCuts && o < NO; ++o) grad[o] = load_once(grads + o * kMaskLanes);
    ACMIX_UNROLL
    for (int i = 0; i < NI; ++i) {
      const Columns<S, WHOLE> columns(at, from + i * piece);
      ACMIX_UNROLL
      for (int o = 0; o < NO; ++o) {
        if constexpr (!kCuts) grad[o] = load_once(grads + o * kMaskLanes);
        ACMIX_UNROLL
        for (int kx = 0; kx < 3; ++kx) total[i][o][kx] += grad[o] * columns.taps[kx];
      }
    }
  }
  const Mask own = S == 1 ? at.own : reordered(at.own);
  ACMIX_UNROLL
  for (int i = 0; i < NI; ++i) {
    ACMIX_UNROLL
    for (int o = 0; o < NO; ++o) {
      ACMIX_UNROLL
      for (int kx = 0; kx < 3; ++kx) store_among(own, sums[i] + (o * 3 + kx) * kMaskLanes, total[i][o][kx]);
    }
  }
}

template <int S, int NI>
ACMIX_INLINE void correlate_direct_outputs(const GroupConvolution& c, const DirectPlace& at, int64_t count, const float* grads,
                                           int64_t rows, const float* from, float* const* sums) {
  if constexpr (!kCuts) {
    if (count == 4 && at.whole) return correlate_direct<S, true, NI, 4>(c, at, grads, rows, from, sums);
  }
  if (count == 4) correlate_direct<S, false, NI, 4>(c, at, grads, rows, from, sums);
  else if (count == 3) correlate_direct<S, false, NI, 3>(c, at, grads, rows, from, sums);
  else if (count == 2) correlate_direct<S, false, NI, 2>(c, at, grads, rows, from, sums);
  else correlate_direct<S, false, NI, 1>(c, at, grads, rows, from, sums);
}

constexpr int kScattered = kRegisters == 32 ? 4 : 2;  // inputs at a time

template <int NI>
struct InputCount {
  static constexpr int value = NI;
};

// At a stride of two: what NI inputs get in two rows, of which the even ones have one kernel row and the odd ones two, and
// likewise columns. `y` of the packed rows, `rows` of the two that are in the map; `weight` of the first input and output; `to`
// the even row, in which the tile begins.
template <int NI>
ACMIX_APART void scatter_direct(const GroupConvolution& c, const PackedGrads& grads, int64_t tile, int64_t y, int64_t rows,
                                const float* weight, float* to) {
  Vector<float> sums[NI][2][2], below[NI];  // what odd rows and columns get from the row below apart: it is the longest chain
  ACMIX_UNROLL
  for (int i = 0; i < NI; ++i) {
    ACMIX_UNROLL
    for (int p = 0; p < 4; ++p) sums[i][p / 2][p % 2] = Vector<float>{};
    below[i] = Vector<float>{};
  }
  for (int64_t o = 0; o < c.outputs; ++o, weight += c.pieces * 9) {
    Vector<float> here[2], next[2];  // of rows y and y + 1: a column's own gradient and its right neighbour's
    ACMIX_UNROLL
    for (int r = 0; r < 2; ++r) {
      here[r] = load_once(grads.at(tile, y + r, o));
      if constexpr (holds_neighbours(2)) {
        next[r] = load_once(grads.at(tile, y + r, o) + grads.size());
      } else {
        const Vector<float> right = tile + 1 < grads.tiles ? load(grads.at(tile + 1, y + r, o)) : Vector<float>{};
        next[r] = lanes_from<1>(here[r], right);
      }
    }
    // One line of what each input gets two rows below, of four.
    const float* const line = to + (4 + o / 2 % 2) * c.grad_x.strides[3] + o % 2 * kMaskLanes + kMaskLanes / 2;
    ACMIX_UNROLL
    for (int i = 0; i < NI; ++i) {
      __builtin_prefetch(line + i * c.grad_x.strides[2], 1);
      const float* w = weight + i * 9;
      sums[i][0][0] += w[4] * here[0];
      sums[i][0][1] += w[5] * here[0];
      sums[i][0][1] += w[3] * next[0];
      sums[i][1][0] += w[7] * here[0];
      sums[i][1][0] += w[1] * here[1];
      sums[i][1][1] += w[8] * here[0];
      sums[i][1][1] += w[6] * next[0];
      below[i] += w[2] * here[1];
      below[i] += w[0] * next[1];
    }
  }
  ACMIX_UNROLL
  for (int i = 0; i < NI; ++i) sums[i][1][1] += below[i];
  const int64_t left = c.columns - 2 * tile * kMaskLanes;
  const Mask masks[2] = {lanes_between(0, left), lanes_between(0, left - kMaskLanes)};
  const auto write = [&](int i, int64_t r, const Mask* own) __attribute__((always_inline)) {
    float* row = to + i * c.grad_x.strides[2] + r * c.grad_x.strides[3];
    ACMIX_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Vector<float> entries = interleaved_picked(sums[i][r][0], sums[i][r][1], half);
      float* place = row + half * kMaskLanes;
      if (own == nullptr) store<float>(place, c.adds ? entries + load(place) : entries);
      else store_lanes(own[half], place, c.adds ? entries + load_lanes(own[half], place) : entries);
    }
  };
  if (!kCuts && left >= 2 * kMaskLanes && rows == 2) {
    ACMIX_UNROLL
    for (int i = 0; i < NI; ++i) write(i, 0, nullptr), write(i, 1, nullptr);
    return;
  }
  for (int i = 0; i < NI; ++i) {
    for (int64_t r = 0; r < rows; ++r) write(i, r, masks);
  }
}

// Some output rows of a group of an image.
struct GradPart {
  int64_t group, batch, top, bottom;
};

// Of one group: the kernels' gradients and, at a stride of two, the inputs'.
template <int S>
class DirectGroupBackward {
 public:
  explicit DirectGroupBackward(const GroupConvolution& c)
      : c_(c), grads_(c, nullptr), sums_size_(c.pieces * 9 * c.outputs * lanes),
        packed_size_(grads_.size() * (holds_neighbours(S) ? 2 : 1)),
        scratch_(Memory::size_of(sums_size_) + Memory::size_of(sums_size_ / lanes) + Memory::size_of(packed_size_)),
        sums_(scratch_.take(sums_size_)), totals_(scratch_.take(sums_size_ / lanes)) {
    grads_.data = scratch_.take(packed_size_);
  }

  void run(int64_t group) {
    const int64_t size = c_.outputs * c_.pieces * 9;
    const float* weight = static_cast<const float*>(c_.weight) + group * size;
    ::memset(static_cast<void*>(sums_), 0, sums_size_ * sizeof(float));
    for (int64_t batch = 0; batch < c_.batch; ++batch) {
      for (int64_t top = 0; top < c_.out_height; top += grads_.rows) {
        const GradPart part{group, batch, top, least(top + grads_.rows, c_.out_height)};
        pack(part);
        correlate(part);
        if (S == 2) scatter(weight, part);
      }
    }
    sums_of_lanes(sums_, size, totals_);
    float* to = static_cast<float*>(c_.grad_weight) + group * size;
    for (int64_t o = 0; o < c_.outputs; ++o) {
      for (int64_t i = 0; i < c_.pieces; ++i) {
        for (int64_t tap = 0; tap < 9; ++tap) {
          to[(o * c_.pieces + i) * 9 + tap] = totals_[((i * 3 + tap / 3) * c_.outputs + o) * 3 + tap % 3];
        }
      }
    }
  }

 private:
  static constexpr int64_t lanes = kMaskLanes;
  using Memory = Scratch<float>;

  // Sums of one input and kernel row: [outputs][3][lanes].
  float* place(int64_t i, int64_t ky) const { return sums_ + (i * 3 + ky) * 3 * c_.outputs * lanes; }

  // At a stride of two with the row below.
  void pack(const GradPart& part) {
    const int64_t* s = c_.grad.strides;
    const float* const from = static_cast<const float*>(c_.grad.data) + part.batch * s[0] + part.group * s[1];
    for (int64_t tile = 0; tile < grads_.tiles; ++tile) {
      const int64_t columns = c_.out_columns - tile * lanes;
      const Mask own = lanes_between(0, columns), with_right = lanes_between(0, columns - 1);
      for (int64_t y = part.top; y < part.bottom + (S == 2 ? 1 : 0); ++y) {
        for (int64_t o = 0; o < c_.outputs; ++o) {
          const float* const row = from + o * s[2] + y * s[3] + tile * lanes;
          float* const to = grads_.at(tile, y - part.top, o);
          const bool none = y == c_.out_height;
          const Vector<float> entries = none ? Vector<float>{} : load_lanes(own, row);
          store(to, S == 1 ? entries : reordered(entries));
          if constexpr (holds_neighbours(S)) {
            store(to + grads_.size(), none ? Vector<float>{} : reordered(load_lanes(with_right, row + 1)));
          }
        }
      }
    }
  }

  void correlate(const GradPart& part) {
    for (int64_t tile = 0; tile < grads_.tiles; ++tile) {
      const DirectPlace at(c_, tile * lanes);
      for (int64_t o = 0, count; o < c_.outputs; o += count) {
        count = least(kOutputs, c_.outputs - o);
        int64_t i = 0;
        for (; kRegisters == 32 && i + 2 <= c_.pieces; i += 2) {
          correlate_inputs<kRegisters == 32 ? 2 : 1>(part, at, tile, o, count, i);
        }
        for (; i < c_.pieces; ++i) correlate_inputs<1>(part, at, tile, o, count, i);
      }
    }
  }

  // Of NI inputs from the i'th on and `count` outputs from the o'th on, with all kernel rows.
  template <int NI>
  void correlate_inputs(const GradPart& part, const DirectPlace& at, int64_t tile, int64_t o, int64_t count, int64_t i) {
    const int64_t* s = c_.x.strides;
    for (int64_t ky = 0; ky < 3; ++ky) {
      // Output rows whose input row, S y + ky - 1, is in the map.
      const int64_t first = ky == 0 && part.top == 0 ? 1 : part.top, last = least(part.bottom, (c_.height - ky + S) / S);
      if (last <= first) continue;
      const float* const from = static_cast<const float*>(c_.x.data) + part.batch * s[0] + part.group * s[1] + i * s[2] +
                                (first * S + ky - 1) * s[3] + tile * lanes * S - 1;
      float* sums[NI];
      for (int n = 0; n < NI; ++n) sums[n] = place(i + n, ky) + o * 3 * lanes;
      correlate_direct_outputs<S, NI>(c_, at, count, grads_.at(tile, first - part.top, o), last - first, from, sums);
    }
  }

  void scatter(const float* weight, const GradPart& part) {
    const int64_t* s = c_.grad_x.strides;
    float* const to = static_cast<float*>(c_.grad_x.data) + part.batch * s[0] + part.group * s[1];
    for (int64_t y = part.top; y < part.bottom; ++y) {
      const int64_t rows = least(2, c_.height - 2 * y);
      for (int64_t tile = 0; tile < grads_.tiles; ++tile) {
        float* const row = to + 2 * y * s[3] + 2 * tile * lanes;
        const auto inputs = [&](auto number, int64_t i) {
          scatter_direct<decltype(number)::value>(c_, grads_, tile, y - part.top, rows, weight + i * 9, row + i * s[2]);
        };
        int64_t i = 0;
        for (; i + kScattered <= c_.pieces; i += kScattered) inputs(InputCount<kScattered>{}, i);
        for (; i < c_.pieces; ++i) inputs(InputCount<1>{}, i);
      }
    }
  }

  const GroupConvolution& c_;
  PackedGrads grads_;
  int64_t sums_size_, packed_size_;
  Memory scratch_;
  float *sums_, *totals_;
};

template <int S>
void convolution_backward_direct(const GroupConvolution& c, int64_t first_unit, int64_t last_unit) {
  if (S == 1) turned_convolution<float>(c, first_unit, last_unit);
  DirectGroupBackward<S> backward(c);
  for (int64_t group = first_unit; group < last_unit; ++group) backward.run(group);
}

}  // namespace acmix::ACMIX_ISA
#endif
