// The two products of window attention on a tile: one vector of neighbouring queries in one row, or in two or three rows
// that share the key rows they read.
#pragma once
#include "packed_row.h"

namespace acmix::ACMIX_ISA {

constexpr int64_t kGroup = 3;  // query rows that share key rows, at most

// K at compile time for the usual windows: positive without stride and dilation, where the keys of neighbouring offsets
// are neighbours themselves, negative with them; 0 for all other windows, which are known at run time.
template <int K>
ACMIX_INLINE int64_t window(const Attention& a) {
  return K > 0 ? K : K < 0 ? -K : a.kernel;
}

struct AttentionPlan {
  const Attention& call;
  int64_t reach, columns;  // the window's reach in pixels; query columns, a multiple of the lanes
  PackedRow row;
  Scratch<int64_t> memory;
  int64_t* offsets;  // where the keys of each column of the window begin in a packed row
  int64_t* rows;     // the map's rows behind the padded rows that are being packed

  AttentionPlan(const Attention& a, int64_t lanes)
      : call(a), reach((a.kernel - 1) / 2 * a.dilation), columns(round_up(a.out_columns, lanes)),
        row(a.columns, reach, columns, a.stride, Border::reflected),
        memory(Scratch<int64_t>::size_of(a.kernel) + Scratch<int64_t>::size_of(a.out_height * a.stride + 2 * reach + 1)) {
    offsets = memory.take(a.kernel);
    rows = memory.take(a.out_height * a.stride + 2 * reach + 1);
    for (int64_t dx = 0; dx < a.kernel; ++dx) offsets[dx] = row.place(dx * a.dilation);
  }

  // float64 is for checks, not for speed: its rows come one by one.
  template <class T>
  int64_t group(int64_t rows_left) const {
    if (sizeof(T) == sizeof(double)) return 1;
    return call.stride == 1 && call.dilation == 1 && call.kernel >= kGroup ? least(rows_left, kGroup) : 1;
  }

  template <int K>
  int64_t offset(int64_t dx) const {
    return K > 0 ? dx : offsets[dx];
  }

  // Keys or values of `count` padded rows times `factor`: [rows][D][entries]; where there is a position code, less that
  // before. Channel by channel: rows of one channel follow each other in memory.
  template <class T>
  void pack(const View& view, int64_t batch, int64_t head, int64_t first, int64_t count, bool less_position, T factor,
            T* to) const {
    const int64_t *s = view.strides, *p = call.position.strides, entries = row.entries();
    const bool subtract = less_position && call.position.data != nullptr;
    if (row.is_plain(view) && (!subtract || row.is_plain(call.position))) {
      const float* from = static_cast<const float*>(view.data) + batch * s[0] + head * s[1];
      const float* less = static_cast<const float*>(call.position.data);
      for (int64_t i = 0; i < count; ++i) rows[i] = reflect(first + i - reach, call.height);
      for (int64_t d = 0; d < call.width; ++d) {
        for (int64_t i = 0; i < count; ++i) {
          const float* minus = subtract ? less + d * p[2] + rows[i] * p[3] : nullptr;
          plain_row(from + d * s[2] + rows[i] * s[3], minus, factor, to + (i * call.width + d) * entries);
        }
      }
      return;
    }
    for (int64_t d = 0; d < call.width; ++d) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = reflect(first + i - reach, call.height);
        T* line = to + (i * call.width + d) * entries;
        row.read(view, batch * s[0] + head * s[1] + d * s[2] + at * s[3], s[4], line);
        if (subtract) row.subtract(call.position, d * p[2] + at * p[3], p[4], line);
        row.complete(line);
        if (factor != T(1)) row.scale(line, factor);
      }
    }
  }

  ACMIX_INLINE void plain_row(const float* from, const float* minus, float factor, float* to) const {
    if (minus == nullptr && factor == 1) row.read_plain(from, to);
    else row.read_plain(from, minus, factor, to);
  }
  ACMIX_INLINE void plain_row(const float*, const float*, double, double*) const {}  // only float32 is plain
};

// One tile's operands. `left` is multiplied with the packed rows `right` into `weights`; sums over the window of
// weights times packed rows go to whatever `gather` is given. Of weights, LINE is the distance between two of a window,
// or 0 where `distance` has it.
template <class T, int64_t LINE>
struct Tile {
  const T* left;  // [rows][D], at the tile's first column
  int64_t left_row, left_channel;
  T* weights;  // [rows][K * K]
  int64_t weights_row, distance;

  ACMIX_INLINE int64_t line() const { return LINE ? LINE : distance; }
};

// Products of rows R0..R1 of a group with NX neighbouring offsets in one key row.
template <int K, int R0, int R1, int NX, class T, int64_t LINE>
ACMIX_INLINE void score(const AttentionPlan& plan, const Tile<T, LINE>& t, const T* keys, int64_t dx, T* const* out) {
  const int64_t channel = plan.row.entries(), width = plan.call.width;
  Vector<T> sums[R1 - R0][NX];
  ACMIX_UNROLL
  for (int r = 0; r < R1 - R0; ++r) {
    ACMIX_UNROLL
    for (int x = 0; x < NX; ++x) sums[r][x] = Vector<T>{};
  }
  int64_t offsets[NX];
  for (int x = 0; x < NX; ++x) offsets[x] = plan.offset<K>(dx + x);
  const T* query = t.left;
  for (int64_t d = 0; d < width; ++d, keys += channel, query += t.left_channel) {
    Vector<T> queries[R1 - R0];
    ACMIX_UNROLL
    for (int r = R0; r < R1; ++r) queries[r - R0] = load_once(query + r * t.left_row);
    ACMIX_UNROLL
    for (int x = 0; x < NX; ++x) {
      const Vector<T> key = load_once(keys + offsets[x]);
      ACMIX_UNROLL
      for (int r = 0; r < R1 - R0; ++r) sums[r][x] += queries[r] * key;
    }
  }
  ACMIX_UNROLL
  for (int r = R0; r < R1; ++r) {
    ACMIX_UNROLL
    for (int x = 0; x < NX; ++x) store(out[r] + x * t.line(), sums[r - R0][x]);
  }
}

// The rows R0..R1 of a group that see one key row.
template <int FIRST, int LAST>
struct Seeing {
  static constexpr int R0 = FIRST, R1 = LAST;
};

// Calls body(rows that see it, key row) for all key rows of a group of ROWS query rows, the first one's top row being 0.
template <int ROWS, class F>
ACMIX_INLINE void for_each_key_row(int64_t kernel, F body) {
  if constexpr (ROWS > 1) body(Seeing<0, 1>{}, 0);
  if constexpr (ROWS > 2) body(Seeing<0, 2>{}, 1);
  for (int64_t dy = ROWS - 1; dy < kernel; ++dy) body(Seeing<0, ROWS>{}, dy);
  if constexpr (ROWS > 1) body(Seeing<1, ROWS>{}, kernel);
  if constexpr (ROWS > 2) body(Seeing<2, ROWS>{}, kernel + 1);
}

// NX neighbouring offsets at a time; what is left, fewer at a time.
template <int K, int R0, int R1, int NX, class T, int64_t LINE>
ACMIX_INLINE void score_offsets(const AttentionPlan& plan, const Tile<T, LINE>& t, const T* row, int64_t& dx, T** out) {
  for (; dx + NX <= window<K>(plan.call); dx += NX) {
    score<K, R0, R1, NX>(plan, t, row, dx, out);
    for (int r = R0; r < R1; ++r) out[r] += NX * t.line();
  }
}

// One key row, `dy` below the top of the window of the group's first row, against rows R0..R1 of the group. Sums, queries
// and a key fit the registers: a key that does not would be read for each row.
template <int K, int R0, int R1, class T, int64_t LINE>
ACMIX_INLINE void score_row(const AttentionPlan& plan, const Tile<T, LINE>& t, const T* right, int64_t right_row, int64_t dy) {
  const int64_t kernel = window<K>(plan.call);
  const T* row = right + dy * plan.call.dilation * right_row;
  T* out[kGroup];
  for (int r = R0; r < R1; ++r) out[r] = t.weights + r * t.weights_row + (dy - r) * kernel * t.line();
  if constexpr (K != 0 && (R1 - R0 == 1 || kRegisters == 32)) {
    score<K, R0, R1, (K > 0 ? K : -K)>(plan, t, row, 0, out);
  } else {
    int64_t dx = 0;
    if constexpr (K == 7) score_offsets<K, R0, R1, 4>(plan, t, row, dx, out);
    score_offsets<K, R0, R1, 3>(plan, t, row, dx, out);
    if constexpr (K == 5) score_offsets<K, R0, R1, 2>(plan, t, row, dx, out);
    if constexpr (K == 0) score_offsets<K, R0, R1, 1>(plan, t, row, dx, out);
  }
}

template <int K, int ROWS, class T, int64_t LINE>
ACMIX_APART void score_rows(const AttentionPlan& plan, const Tile<T, LINE>& t, const T* right, int64_t right_row) {
  for_each_key_row<ROWS>(window<K>(plan.call), [&](auto seeing, int64_t dy) __attribute__((always_inline)) {
    score_row<K, decltype(seeing)::R0, decltype(seeing)::R1>(plan, t, right, right_row, dy);
  });
}

// Products of every query of the tile with its window.
template <int K, class T, int64_t LINE>
ACMIX_INLINE void score_tile(const AttentionPlan& plan, const Tile<T, LINE>& t, const T* right, int64_t right_row, int64_t rows) {
  if (rows == 1) score_rows<K, 1>(plan, t, right, right_row);
  if constexpr (K >= 0 && sizeof(T) == sizeof(float)) {
    if (rows == 2) score_rows<K, 2>(plan, t, right, right_row);
    if (rows == 3) score_rows<K, 3>(plan, t, right, right_row);
  }
}

template <int K, int R0, int R1, int ND, int ROWS, class T, int64_t LINE>
ACMIX_INLINE void gather_row(const AttentionPlan& plan, const Tile<T, LINE>& t, const T* right, int64_t dy,
                             Vector<T> (&sums)[ROWS][ND]) {
  const int64_t kernel = window<K>(plan.call), channel = plan.row.entries();
  const T* rows[R1];
  ACMIX_UNROLL
  for (int r = R0; r < R1; ++r) rows[r] = t.weights + r * t.weights_row + (dy - r) * kernel * t.line();
  const auto column = [&](int64_t dx) __attribute__((always_inline)) {
    Vector<T> weights[R1];
    ACMIX_UNROLL
    for (int r = R0; r < R1; ++r) weights[r] = load_once(rows[r] + dx * t.line());
    const T* from = right + plan.offset<K>(dx);
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i, from += channel) {
      const Vector<T> value = load_once(from);
      ACMIX_UNROLL
      for (int r = R0; r < R1; ++r) sums[r][i] += weights[r] * value;
    }
  };
  if constexpr (K == 0) {  // unrolled, loops of unknown length would be a tenth of the library
    for (int64_t dx = 0; dx < kernel; ++dx) column(dx);
  } else {
    ACMIX_UNROLL
    for (int64_t dx = 0; dx < kernel; ++dx) column(dx);
  }
}

// ND channels of the window's weighted sums, times `factors` of each row.
template <int K, int ROWS, int ND, class T, int64_t LINE>
ACMIX_APART void gather_channels(const AttentionPlan& plan, const Tile<T, LINE>& t, const T* right, int64_t right_row,
                                  const Vector<T>* factors, T* out, int64_t out_row, int64_t out_channel) {
  const int64_t step = plan.call.dilation * right_row;
  Vector<T> sums[ROWS][ND];
  ACMIX_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i) sums[r][i] = Vector<T>{};
  }
  for_each_key_row<ROWS>(window<K>(plan.call), [&](auto seeing, int64_t dy) __attribute__((always_inline)) {
    gather_row<K, decltype(seeing)::R0, decltype(seeing)::R1, ND>(plan, t, right + dy * step, dy, sums);
  });
  ACMIX_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i) store(out + r * out_row + i * out_channel, sums[r][i] * factors[r]);
  }
}

// MANY channels at a time, the rest one by one.
template <int K, int ROWS, int MANY, class T, int64_t LINE>
ACMIX_INLINE void gather_rows(const AttentionPlan& plan, const Tile<T, LINE>& t, const T* right, int64_t right_row,
                              const Vector<T>* factors, T* out, int64_t out_row, int64_t out_channel) {
  const int64_t width = plan.call.width, channel = plan.row.entries();
  int64_t d = 0;
  for (; d + MANY <= width; d += MANY, right += MANY * channel, out += MANY * out_channel) {
    gather_channels<K, ROWS, MANY>(plan, t, right, right_row, factors, out, out_row, out_channel);
  }
  for (; d < width; ++d, right += channel, out += out_channel) {
    gather_channels<K, ROWS, 1>(plan, t, right, right_row, factors, out, out_row, out_channel);
  }
}

// Sums over the window of weights times packed rows, for all channels: out [rows][D].
template <int K, class T, int64_t LINE>
ACMIX_INLINE void gather_tile(const AttentionPlan& plan, const Tile<T, LINE>& t, const T* right, int64_t right_row, int64_t rows,
                              const Vector<T>* factors, T* out, int64_t out_row, int64_t out_channel) {
  if (rows == 1) gather_rows<K, 1, 8>(plan, t, right, right_row, factors, out, out_row, out_channel);
  if constexpr (K >= 0 && sizeof(T) == sizeof(float)) {
    if (rows == 2) gather_rows<K, 2, 4>(plan, t, right, right_row, factors, out, out_row, out_channel);
    if (rows == 3) gather_rows<K, 3, 4>(plan, t, right, right_row, factors, out, out_row, out_channel);
  }
}

}  // namespace acmix::ACMIX_ISA
