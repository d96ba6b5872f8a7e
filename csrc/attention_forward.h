// Window attention, forward: a unit is some output rows of one head of one image.
#pragma once
#include "attention_tile.h"

namespace acmix::ACMIX_ISA {

constexpr int64_t kPackedBytes = 320 * 1024;  // of a unit's keys and values: what is in use is to stay in the second cache

// Output rows of a unit: as many as have their keys and values in the cache, in blocks of equal size, each a multiple of
// `group`, or one more where a rest of few rows is shared out among them. They depend on the shape alone, and so do the results.
ACMIX_APART inline int64_t rows_of_unit(const Attention& a, int64_t group) {
  const int64_t row_bytes = 2 * a.width * (a.columns + (a.kernel - 1) * a.dilation) * 4;
  const int64_t fitting = (kPackedBytes / row_bytes - (a.kernel - 1) * a.dilation) / a.stride / group * group;
  const int64_t most = fitting < 8 ? 8 : fitting, all = a.bottom - a.top, blocks = (all + most - 1) / most;
  const int64_t rows = round_up((all + blocks - 1) / blocks, group), whole = all / rows, rest = all - whole * rows;
  return rest > whole ? rows : rows + (rest > 0 && whole > 0 ? 1 : 0);
}

// Rows of a tile: with AVX-512, which has the registers, the paper's window has code for one more on dense rows of float32.
constexpr int64_t tile_group(int64_t kernel, int64_t stride) { return ACMIX_VECTOR_BYTES == 64 && kernel == 7 && stride == 1 ? 4 : kGroup; }

inline int64_t forward_rows(const Attention& a) { return rows_of_unit(a, tile_group(a.kernel, a.stride)); }

// Four sums, or maxima, side by side: neither waits for the one before, and their rounding errors do not pile up.
constexpr int64_t kChains = 4;
constexpr int64_t kTogether = kRegisters == 32 ? 4 : 2;  // exponentials whose steps take turns

template <class T>
ACMIX_INLINE Vector<T> total(const Vector<T>* chains) {
  return (chains[0] + chains[1]) + (chains[2] + chains[3]);
}

// 2^(logits - their maximum) in place; returns the sum over the window.
template <class T>
ACMIX_APART Vector<T> exponentials(T* weights, int64_t count, int64_t line) {
  Vector<T> maxima[kChains], sums[kChains];
  ACMIX_UNROLL
  for (int64_t i = 0; i < kChains; ++i) {
    maxima[i] = load(weights);
    sums[i] = Vector<T>{};
  }
  int64_t o = 0;
  for (; o + kChains <= count; o += kChains) {
    ACMIX_UNROLL
    for (int64_t i = 0; i < kChains; ++i) maxima[i] = larger(maxima[i], load(weights + (o + i) * line));
  }
  for (; o < count; ++o) maxima[0] = larger(maxima[0], load(weights + o * line));
  const Vector<T> maximum = larger(larger(maxima[0], maxima[1]), larger(maxima[2], maxima[3]));
  for (o = 0; o + kChains <= count; o += kChains) {
    Vector<T> powers[kChains];
    ACMIX_UNROLL
    for (int64_t i = 0; i < kChains; ++i) powers[i] = load(weights + (o + i) * line) - maximum;
    ACMIX_UNROLL
    for (int64_t i = 0; i < kChains; i += kTogether) powers_of_two<kTogether>(powers + i);
    ACMIX_UNROLL
    for (int64_t i = 0; i < kChains; ++i) {
      sums[i] += powers[i];
      store(weights + (o + i) * line, powers[i]);
    }
  }
  for (; o < count; ++o) {
    Vector<T> power = load(weights + o * line) - maximum;
    powers_of_two<1>(&power);
    sums[0] += power;
    store(weights + o * line, power);
  }
  return total<T>(sums);
}

inline int64_t attention_forward_units(const Attention& a) {
  if (a.bottom == a.top || a.out_columns == 0) return 0;
  const int64_t rows = forward_rows(a);
  return a.batch * a.heads * ((a.bottom - a.top + rows - 1) / rows);
}

// Queries of output rows `row`.., [rows][D][line], times `factor`; what lies behind them stays zero.
template <class T>
inline void read_queries(const Attention& a, const View& view, int64_t batch, int64_t head, int64_t row, int64_t rows,
                         int64_t step, T factor, T* to, int64_t line) {
  const int64_t* s = view.strides;
  if (view.dtype == Dtype::float32 && step * s[4] == 1) {
    const float* from = static_cast<const float*>(view.data) + batch * s[0] + head * s[1] + row * s[3];
    for (int64_t d = 0; d < a.width; ++d) {
      for (int64_t r = 0; r < rows; ++r) {
        const float* line_from = from + d * s[2] + r * s[3];
        T* line_to = to + (r * a.width + d) * line;
        for (int64_t c = 0; c < a.out_columns; ++c) line_to[c] = line_from[c] * factor;
      }
    }
    return;
  }
  for (int64_t d = 0; d < a.width; ++d) {
    for (int64_t r = 0; r < rows; ++r) {
      T* row_to = to + (r * a.width + d) * line;
      const int64_t offset = batch * s[0] + head * s[1] + d * s[2] + (row + r) * step * s[3];
      read_row(view, offset, a.out_columns, step * s[4], row_to);
      for (int64_t c = 0; c < a.out_columns; ++c) row_to[c] *= factor;
    }
  }
}

template <class T>
inline void write_queries(const Attention& a, const View& view, int64_t batch, int64_t head, int64_t row, int64_t rows,
                          int64_t step, const T* from, int64_t line) {
  const int64_t* s = view.strides;
  if (view.dtype == Dtype::float32 && step * s[4] == 1) {
    float* to = static_cast<float*>(view.data) + batch * s[0] + head * s[1] + row * s[3];
    for (int64_t d = 0; d < a.width; ++d) {
      for (int64_t r = 0; r < rows; ++r) {
        const T* line_from = from + (r * a.width + d) * line;
        float* line_to = to + d * s[2] + r * s[3];
        for (int64_t c = 0; c < a.out_columns; ++c) line_to[c] = line_from[c];
      }
    }
    return;
  }
  for (int64_t d = 0; d < a.width; ++d) {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t offset = batch * s[0] + head * s[1] + d * s[2] + (row + r) * step * s[3];
      write_row(view, offset, a.out_columns, step * s[4], from + (r * a.width + d) * line);
    }
  }
}

template <class T>
ACMIX_INLINE T rate_of(const Attention& a) {
  return a.rate == nullptr ? T(1) : *static_cast<const T*>(a.rate);
}

// Where a unit's queries are read and its results written: in the tensors themselves where whole vectors of them lie
// there, else in scratch memory.
template <class T>
class QueryRows {
 public:
  QueryRows(const Attention& a, int64_t rows, int64_t columns)
      : a_(a), columns_(columns), size_(a.width * columns), direct_(is_direct(a.q, a.stride) && is_direct(a.out, 1)),
        scratch_(direct_ ? 0 : Scratch<T>::size_of(rows * size_)), kept_(direct_ ? nullptr : scratch_.take(rows * size_)) {}

  void begin(int64_t batch, int64_t head, int64_t top, int64_t rows) {
    batch_ = batch, head_ = head, top_ = top, rows_ = rows;
    if (!direct_) read_queries(a_, a_.q, batch, head, top, rows, a_.stride, T(1), kept_, columns_);
  }

  void end() const {
    if (!direct_) write_queries(a_, a_.out, batch_, head_, top_, rows_, 1, kept_, columns_);
  }

  // The tile's first column: tiles of tensors end where the row does, and may overlap.
  int64_t column(int64_t x) const { return direct_ ? least(x, a_.out_columns - Lanes<T>::count) : x; }

  const T* query(int64_t y, int64_t x) const { return direct_ ? at(a_.q, y, x) : kept_ + y * size_ + x; }
  int64_t query_row() const { return direct_ ? a_.q.strides[3] : size_; }
  int64_t query_channel() const { return direct_ ? a_.q.strides[2] : columns_; }

  T* result(int64_t y, int64_t x) const { return direct_ ? at(a_.out, y, x) : kept_ + y * size_ + x; }
  int64_t result_row() const { return direct_ ? a_.out.strides[3] : size_; }
  int64_t result_channel() const { return direct_ ? a_.out.strides[2] : columns_; }

 private:
  bool is_direct(const View& view, int64_t step) const {
    return view.dtype == Dtype::float32 && sizeof(T) == 4 && step * view.strides[4] == 1 &&
           a_.out_columns >= Lanes<T>::count;
  }

  T* at(const View& view, int64_t y, int64_t x) const {
    const int64_t* s = view.strides;
    return static_cast<T*>(view.data) + batch_ * s[0] + head_ * s[1] + (top_ + y) * s[3] + x;
  }

  const Attention& a_;
  int64_t columns_, size_;
  bool direct_;
  Scratch<T> scratch_;
  T* kept_;
  int64_t batch_ = 0, head_ = 0, top_ = 0, rows_ = 0;
};

template <int K, class T>
void attention_forward(const Attention& a, int64_t first_unit, int64_t last_unit) {
  constexpr int64_t lanes = Lanes<T>::count;
  const AttentionPlan plan(a, lanes);
  const int64_t kernel = window<K>(a), taps = kernel * kernel;
  const T rate = rate_of<T>(a);
  const int64_t row_size = a.width * plan.row.entries();
  const int64_t unit_rows = forward_rows(a), most_rows = (unit_rows - 1) * a.stride + 2 * plan.reach + 1;
  Scratch<T> scratch(2 * Scratch<T>::size_of(most_rows * row_size) + Scratch<T>::size_of(kGroup * taps * lanes));
  T* const keys = scratch.take(most_rows * row_size);
  T* const values = scratch.take(most_rows * row_size);
  T* const weights = scratch.take(kGroup * taps * lanes);
  QueryRows<T> queries(a, unit_rows, plan.columns);
  const int64_t blocks = (a.bottom - a.top + unit_rows - 1) / unit_rows;
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const int64_t head = unit / blocks % a.heads, batch = unit / blocks / a.heads;
    const int64_t top = a.top + unit % blocks * unit_rows, height = least(unit_rows, a.bottom - top);
    const int64_t key_rows = (height - 1) * a.stride + 2 * plan.reach + 1;
    plan.pack(a.k, batch, head, top * a.stride, key_rows, true, static_cast<T>(a.scale * kLog2E), keys);
    plan.pack(a.v, batch, head, top * a.stride, key_rows, false, T(1), values);
    queries.begin(batch, head, top, height);
    // Down the columns: the next tile then finds most of its keys and values in the first cache.
    for (int64_t place = 0; place < a.out_columns; place += lanes) {
      const int64_t x = queries.column(place);
      for (int64_t y = 0, rows; y < height; y += rows) {
        rows = plan.group<T>(height - y);
        const int64_t from = y * a.stride * row_size + x;
        const Tile<T, lanes> tile{queries.query(y, x), queries.query_row(), queries.query_channel(), weights, taps * lanes,
                                  lanes};
        Vector<T> factors[kGroup];
        score_tile<K>(plan, tile, keys + from, row_size, rows);
        for (int64_t r = 0; r < rows; ++r) factors[r] = rate / exponentials(weights + r * taps * lanes, taps, lanes);
        gather_tile<K>(plan, tile, values + from, row_size, rows, factors, queries.result(y, x), queries.result_row(),
                       queries.result_channel());
      }
    }
    queries.end();
  }
}

}  // namespace acmix::ACMIX_ISA
