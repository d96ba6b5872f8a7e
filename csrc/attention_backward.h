// Window attention, backward: a unit is one head of one image. The weights are computed again, row by row; a query row
// adds its share to the gradients of the key rows that it sees, which wait in scratch memory until they are complete.
#pragma once
#include "attention_forward.h"

namespace acmix::ACMIX_ISA {

// Logits become weights times the rate; the gradients of the weights become those of the logits. Returns the products of
// the output, without the rate, and its gradient. Lanes from `own` on are no queries and become zeros: of a key that is
// infinite they would give NaN to the keys that share their vector.
template <class T>
ACMIX_APART Vector<T> softmax_backward(T* weights, T* grads, int64_t count, int64_t line, T rate, int64_t own) {
  const Vector<T> sum = exponentials(weights, count, line);
  Vector<T> sums[kChains]{};
  int64_t o = 0;
  for (; o + kChains <= count; o += kChains) {
    ACMIX_UNROLL
    for (int64_t i = 0; i < kChains; ++i) sums[i] += load(weights + (o + i) * line) * load(grads + (o + i) * line);
  }
  for (; o < count; ++o) sums[0] += load(weights + o * line) * load(grads + o * line);
  // Where one weight is all, its gradient is exactly zero: nothing is multiplied before the difference.
  const Vector<T> mean = total<T>(sums) / sum, factor = rate / sum, per_power = factor * static_cast<T>(1 / kLog2E);
  for (o = 0; o < count; ++o) {
    const Vector<T> power = load(weights + o * line);
    store(weights + o * line, power * factor);
    store(grads + o * line, power * per_power * (load(grads + o * line) - mean));
  }
  for (o = 0; own < Lanes<T>::count && o < count; ++o) {
    store(weights + o * line, first_lanes<T>(load(weights + o * line), own));
    store(grads + o * line, first_lanes<T>(load(grads + o * line), own));
  }
  return mean;
}

// What one query row gives to NY of its key rows and ND channels: sums over the window's columns.
template <int K, int NY, int ND, class T>
ACMIX_APART void spread(const AttentionPlan& plan, const T* weights, int64_t line, const T* queries, T* const* to) {
  const int64_t kernel = window<K>(plan.call), channel = plan.row.entries(), step = plan.call.dilation;
  Vector<T> sums[NY][ND];
  ACMIX_UNROLL
  for (int y = 0; y < NY; ++y) {
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i) sums[y][i] = load(to[y] + i * channel);
  }
  for (int64_t dx = 0; dx < kernel; ++dx) {
    Vector<T> query[ND];
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i) query[i] = load_once(queries + i * line - dx * step);
    ACMIX_UNROLL
    for (int y = 0; y < NY; ++y) {
      const Vector<T> weight = load_once(weights + (y * kernel + dx) * line - dx * step);
      ACMIX_UNROLL
      for (int i = 0; i < ND; ++i) sums[y][i] += weight * query[i];
    }
  }
  ACMIX_UNROLL
  for (int y = 0; y < NY; ++y) {
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i) store(to[y] + i * channel, sums[y][i]);
  }
}

template <int K, int ND, class T>
ACMIX_INLINE void spread_rows(const AttentionPlan& plan, const T* weights, int64_t line, const T* queries, T* key_rows,
                              int64_t row_size) {
  const int64_t kernel = window<K>(plan.call);
  for (int64_t dy = 0, count; dy < kernel; dy += count) {
    count = least(4, kernel - dy);
    T* to[4];
    for (int64_t y = 0; y < count; ++y) to[y] = key_rows + (dy + y) * plan.call.dilation * row_size;
    const T* from = weights + dy * kernel * line;
    if (count == 4) spread<K, 4, ND>(plan, from, line, queries, to);
    else if (count == 3) spread<K, 3, ND>(plan, from, line, queries, to);
    else if (count == 2) spread<K, 2, ND>(plan, from, line, queries, to);
    else spread<K, 1, ND>(plan, from, line, queries, to);
  }
}

// Add weights [K * K][line] times queries [D][line] of one query row to the packed rows of its window.
template <int K, class T>
void spread_row(const AttentionPlan& plan, const T* weights, int64_t line, const T* queries, T* key_rows, int64_t row_size) {
  const Attention& a = plan.call;
  const int64_t kernel = window<K>(a), channel = plan.row.entries();
  if (a.stride == 1) {
    // Every key column takes from the queries to its left: both lines have margins of zeros.
    for (int64_t x = 0; x < channel; x += Lanes<T>::count) {
      int64_t d = 0;
      for (; d + 3 <= a.width; d += 3) {
        spread_rows<K, 3>(plan, weights + x, line, queries + d * line + x, key_rows + d * channel + x, row_size);
      }
      for (; d < a.width; ++d) {
        spread_rows<K, 1>(plan, weights + x, line, queries + d * line + x, key_rows + d * channel + x, row_size);
      }
    }
    return;
  }
  for (int64_t dy = 0; dy < kernel; ++dy) {
    for (int64_t d = 0; d < a.width; ++d) {
      for (int64_t dx = 0; dx < kernel; ++dx) {
        T* to = key_rows + dy * a.dilation * row_size + d * channel + plan.offsets[dx];
        const T* weight = weights + (dy * kernel + dx) * line;
        const T* query = queries + d * line;
        for (int64_t x = 0; x < a.out_columns; ++x) to[x] += weight[x] * query[x];
      }
    }
  }
}

// Rows that a group of query rows sees, one behind the other; they slide as the group moves down.
template <class T>
struct SlidingRows {
  int64_t row_size, capacity;
  T* rows;

  void slide(int64_t by, int64_t keep) {
    ::memmove(rows, rows + by * row_size, keep * row_size * sizeof(T));
    ::memset(static_cast<void*>(rows + keep * row_size), 0, (capacity - keep) * row_size * sizeof(T));
  }
};

inline int64_t attention_backward_units(const Attention& a) {
  return a.out_height == 0 || a.out_columns == 0 ? 0 : a.batch * a.heads;
}

template <int K, class T>
void attention_backward(const Attention& a, int64_t first_unit, int64_t last_unit) {
  constexpr int64_t lanes = Lanes<T>::count;
  const AttentionPlan plan(a, lanes);
  const int64_t kernel = window<K>(a), taps = kernel * kernel, span = 2 * plan.reach + 1;
  const int64_t margin = round_up(span + lanes, lanes);
  const int64_t line = round_up(plan.columns + 2 * margin, 16) + 8;  // an odd multiple of 8: lines spread over the cache
  const int64_t row_size = a.width * plan.row.entries(), query_size = a.width * line, weights_size = taps * line;
  const int64_t capacity = span + (kGroup - 1) * a.stride;
  using S = Scratch<T>;
  S scratch(4 * S::size_of(capacity * row_size) + 3 * S::size_of(kGroup * query_size) + 2 * S::size_of(kGroup * weights_size));
  SlidingRows<T> keys{row_size, capacity, scratch.take(capacity * row_size)};
  SlidingRows<T> values{row_size, capacity, scratch.take(capacity * row_size)};
  SlidingRows<T> grad_keys{row_size, capacity, scratch.take(capacity * row_size)};
  SlidingRows<T> grad_values{row_size, capacity, scratch.take(capacity * row_size)};
  SlidingRows<T>* const all[] = {&keys, &values, &grad_keys, &grad_values};
  T* const queries = scratch.take(kGroup * query_size) + margin;
  T* const grads = scratch.take(kGroup * query_size) + margin;
  T* const result = scratch.take(kGroup * query_size) + margin;
  T* const weights = scratch.take(kGroup * weights_size) + margin;
  T* const grad_weights = scratch.take(kGroup * weights_size) + margin;
  const T scale = static_cast<T>(a.scale * kLog2E), rate = rate_of<T>(a);
  const int64_t map = a.width * a.height * a.columns;

  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const int64_t batch = unit / a.heads, head = unit % a.heads;
    T* const map_k = static_cast<T*>(a.grad_k.data) + batch * a.grad_k.strides[0] + head * a.grad_k.strides[1];
    T* const map_v = static_cast<T*>(a.grad_v.data) + batch * a.grad_v.strides[0] + head * a.grad_v.strides[1];
    ::memset(static_cast<void*>(map_k), 0, map * sizeof(T));
    ::memset(static_cast<void*>(map_v), 0, map * sizeof(T));
    if (a.fills && a.stride > 1) {
      T* const map_q = static_cast<T*>(a.grad_q.data) + batch * a.grad_q.strides[0] + head * a.grad_q.strides[1];
      ::memset(static_cast<void*>(map_q), 0, map * sizeof(T));
    }
    double grad_rate = 0;
    for (SlidingRows<T>* rows : all) rows->slide(0, 0);
    int64_t packed = 0;  // padded rows that are in scratch memory, or have been
    for (int64_t y = 0, rows; y < a.out_height; y += rows) {
      rows = plan.group<T>(a.out_height - y);
      const int64_t first = y * a.stride, last = (y + rows - 1) * a.stride + span;
      if (packed < first) packed = first;
      plan.pack(a.k, batch, head, packed, last - packed, true, T(1), keys.rows + (packed - first) * row_size);
      plan.pack(a.v, batch, head, packed, last - packed, false, T(1), values.rows + (packed - first) * row_size);
      packed = last;
      read_queries(a, a.q, batch, head, y, rows, a.stride, scale, queries, line);
      read_queries(a, a.grad, batch, head, y, rows, 1, T(1), grads, line);
      for (int64_t x = 0; x < plan.columns; x += lanes) {
        const Tile<T, 0> logits{queries + x, query_size, line, weights + x, weights_size, line};
        const Tile<T, 0> products{grads + x, query_size, line, grad_weights + x, weights_size, line};
        score_tile<K>(plan, logits, keys.rows + x, row_size, rows);
        score_tile<K>(plan, products, values.rows + x, row_size, rows);
        Vector<T> factors[kGroup];
        for (int64_t r = 0; r < rows; ++r) {
          T* const of_row = weights + r * weights_size + x;
          T* const grads_of_row = grad_weights + r * weights_size + x;
          const Vector<T> products_of_lanes = softmax_backward(of_row, grads_of_row, taps, line, rate, a.out_columns - x);
          for (int64_t lane = 0; lane < least(lanes, a.out_columns - x); ++lane) grad_rate += products_of_lanes[lane];
          factors[r] = splat(scale);
        }
        gather_tile<K>(plan, products, keys.rows + x, row_size, rows, factors, result + x, query_size, line);
      }
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t from = r * a.stride * row_size;
        spread_row<K>(plan, grad_weights + r * weights_size, line, queries + r * query_size, grad_keys.rows + from, row_size);
        spread_row<K>(plan, weights + r * weights_size, line, grads + r * query_size, grad_values.rows + from, row_size);
      }
      write_queries(a, a.grad_q, batch, head, y, rows, a.stride, result, line);
      const int64_t next = y + rows < a.out_height ? (y + rows) * a.stride : last;
      for (int64_t i = first; i < least(next, last); ++i) {
        const int64_t row = reflect(i - plan.reach, a.height);
        for (int64_t d = 0; d < a.width; ++d) {
          const int64_t from = (i - first) * row_size + d * plan.row.entries(), to = (d * a.height + row) * a.columns;
          plan.row.add_back(grad_keys.rows + from, map_k + to);
          plan.row.add_back(grad_values.rows + from, map_v + to);
        }
      }
      const int64_t keep = packed > next ? packed - next : 0;
      for (SlidingRows<T>* moved : all) moved->slide(keep ? next - first : 0, keep);
    }
    if (a.grad_rate != nullptr) static_cast<T*>(a.grad_rate)[unit] = static_cast<T>(grad_rate);
  }
}

}  // namespace acmix::ACMIX_ISA
