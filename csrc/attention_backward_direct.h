// Window attention, backward, on dense rows of float32: a unit is one head of one image. As in the forward pass keys and
// values are packed with zeros beyond the border; the gradients of keys and values are summed in rows packed alike.
#pragma once
#include "attention_backward.h"
#include "attention_direct.h"

#ifdef ACMIX_HAS_MASKS
namespace acmix::ACMIX_ISA {

// Rows of queries and of what belongs to them, with margins of zeros: a query is read from each key that it sees.
struct Lines {
  static constexpr int64_t margin = kMaskLanes;
  int64_t length;  // an odd number of cache lines: neighbouring ones spread over the cache

  explicit Lines(int64_t tiles) : length((tiles + 2 + (tiles + 1) % 2) * kMaskLanes) {}
};

// Of a line, what the query columns show that see a vector of key columns through one of the window's columns.
#if defined(__AVX512F__)
struct Seen {
  Vector<float> left, right;

  Seen() = default;
  explicit ACMIX_INLINE Seen(const float* line) : left(load_once(line - kMaskLanes)), right(load_once(line)) {}

  ACMIX_INLINE Vector<float> operator[](int place) const {
    if (place == 0) return right;
    if (place == 1) return lanes_from<15>(left, right);
    if (place == 2) return lanes_from<14>(left, right);
    if (place == 3) return lanes_from<13>(left, right);
    if (place == 4) return lanes_from<12>(left, right);
    if (place == 5) return lanes_from<11>(left, right);
    return lanes_from<10>(left, right);
  }
};
#else
struct Seen {
  const float* line;

  Seen() = default;
  explicit ACMIX_INLINE Seen(const float* from) : line(from) {}

  ACMIX_INLINE Vector<float> operator[](int place) const { return load_once(line - place); }
};
#endif

// What one query row gives to NY of its key rows and ND channels, for one vector of key columns of phase P. `weights` are
// lines of the first of these key rows, `lines` the queries', `to` the sums.
template <int P, int NY, int ND, int K, int S>
ACMIX_INLINE void direct_spread(const float* weights, const float* lines, int64_t line, float* to, int64_t row, int64_t channel) {
  Vector<float> sums[NY][ND];
  Seen seen[ND];
  ACMIX_UNROLL
  for (int i = 0; i < ND; ++i) {
    seen[i] = Seen(lines + i * line);
    ACMIX_UNROLL
    for (int y = 0; y < NY; ++y) sums[y][i] = load(to + y * row + i * channel);
  }
  ACMIX_UNROLL
  for (int o = 0; o < K; ++o) {
    using Column = WindowColumn<K, S>;
    if (Column::phase(o) != P) continue;
    const int place = Column::place(o);
    Vector<float> weight[NY];
    ACMIX_UNROLL
    for (int y = 0; y < NY; ++y) weight[y] = load_once(weights + (y * K + o) * line);
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i) {
      const Vector<float> query = seen[i][place];
      ACMIX_UNROLL
      for (int y = 0; y < NY; ++y) sums[y][i] += weight[y] * query;
    }
  }
  ACMIX_UNROLL
  for (int y = 0; y < NY; ++y) {
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i) store(to + y * row + i * channel, sums[y][i]);
  }
}

template <int P, int ND, int K, int S>
ACMIX_INLINE void direct_spread_rows(const float* weights, const float* lines, int64_t line, int64_t rows, float* to, int64_t row,
                                     int64_t channel) {
  int64_t y = 0;
  if constexpr (ND > 1) {
    for (; y + 3 <= rows; y += 3) {
      direct_spread<P, 3, ND, K, S>(weights + y * K * line, lines, line, to + y * row, row, channel);
    }
  }
  for (; y < rows; ++y) direct_spread<P, 1, ND, K, S>(weights + y * K * line, lines, line, to + y * row, row, channel);
}

// What three query rows give to all key rows that they see, none of which is beyond the border, and to two channels: the sums
// stay in registers meanwhile. `weights` and `lines` of the first row, `from_row` and `line_row` entries before the next one's.
template <int P, int K, int S>
ACMIX_INLINE void direct_spread_group(const float* weights, int64_t from_row, const float* lines, int64_t line_row, int64_t line,
                                      float* to, int64_t row, int64_t channel) {
  using Column = WindowColumn<K, S>;
  constexpr int keys = K + (kGroup - 1) * S;
  Vector<float> sums[keys][2];
  ACMIX_UNROLL
  for (int y = 0; y < keys; ++y) {
    ACMIX_UNROLL
    for (int i = 0; i < 2; ++i) sums[y][i] = load(to + y * row + i * channel);
  }
  ACMIX_UNROLL
  for (int r = 0; r < kGroup; ++r) {
    const Seen seen[2] = {Seen(lines + r * line_row), Seen(lines + r * line_row + line)};
    const float* from = weights + r * from_row;
    ACMIX_UNROLL
    for (int o = 0; o < K; ++o, from += line) {
      if (Column::phase(o) != P) continue;
      asm("" : "+r"(from));  // or compilers work out all addresses at once, which do not fit the registers
      const Vector<float> left = seen[0][Column::place(o)], right = seen[1][Column::place(o)];
      ACMIX_UNROLL
      for (int y = 0; y < K; ++y) {
        const Vector<float> weight = load_once(from + y * K * line);
        sums[y + r * S][0] += weight * left;
        sums[y + r * S][1] += weight * right;
      }
    }
  }
  ACMIX_UNROLL
  for (int y = 0; y < keys; ++y) {
    ACMIX_UNROLL
    for (int i = 0; i < 2; ++i) store(to + y * row + i * channel, sums[y][i]);
  }
}

template <int P, int K, int S>
ACMIX_APART void direct_spread_groups(const DirectPlan<K, S>& plan, const float* weights, int64_t from_row, const float* lines,
                                      int64_t line_row, int64_t line, float* to) {
  const int64_t row = plan.row;
  for (int64_t d = 0; d < plan.call.width; d += 2) {
    direct_spread_group<P, K, S>(weights, from_row, lines + d * line, line_row, line, to + d * plan.pitch, row, plan.pitch);
  }
}

// Adds what one query row gives to a vector of columns of the `rows` key rows that it sees, all channels. `weights`
// [rows][K][line] and `lines` [D][line] are those of the columns.
template <int P, int K, int S>
ACMIX_APART void direct_spread_column(const DirectPlan<K, S>& plan, const float* weights, const float* lines, int64_t line,
                                      int64_t rows, float* to) {
  const int64_t width = plan.call.width, row = plan.row;
  int64_t d = 0;
  for (; d + 4 <= width; d += 4) {
    direct_spread_rows<P, 4, K, S>(weights, lines + d * line, line, rows, to + d * plan.pitch, row, plan.pitch);
  }
  for (; d < width; ++d) direct_spread_rows<P, 1, K, S>(weights, lines + d * line, line, rows, to + d * plan.pitch, row, plan.pitch);
}

// Sums of a packed row to the map's row; ADDS: to what stands there. `ahead` is asked for.
template <bool ADDS, int K, int S>
ACMIX_INLINE void unpack_row(const float* packed, const float* ahead, int64_t columns, int64_t phase, float* to) {
  using Column = WindowColumn<K, S>;
  const auto put = [&](int64_t x, const Mask& own, Vector<float> value) __attribute__((always_inline)) {
    __builtin_prefetch(ahead + x, 1);
    store_lanes(own, to + x, ADDS ? load_lanes(own, to + x) + value : value);
  };
  if constexpr (S == 1) {
    for (int64_t x = 0; x < columns; x += kMaskLanes) {
      const Mask own = lanes_between(0, columns - x);
      put(x, own, load_lanes(own, packed + Column::before(0) + x));
    }
  } else {
    const float *even = packed + Column::before(0), *odd = packed + phase + Column::before(1);
    for (int64_t x = 0; x < columns; x += 2 * kMaskLanes, even += kMaskLanes, odd += kMaskLanes) {
      const int64_t left = columns - x;
      const Vector<float> evens = load_lanes(lanes_between(0, (left + 1) / 2), even), odds = load_lanes(lanes_between(0, left / 2), odd);
      ACMIX_UNROLL
      for (int half = 0; half < 2; ++half) {
        put(x + half * kMaskLanes, lanes_between(0, left - half * kMaskLanes), interleaved(evens, odds, half));
      }
    }
  }
}

// A row of every second column's entries, with zeros in between, and a row of zeros below where there is one.
ACMIX_INLINE void write_apart(const float* from, int64_t columns, float* to, float* below) {
  const Vector<float> entries = load(from), zeros{};
  ACMIX_UNROLL
  for (int half = 0; half < 2; ++half) {
    const Mask own = lanes_between(0, columns - half * kMaskLanes);
    store_lanes(own, to + half * kMaskLanes, interleaved(entries, zeros, half));
    if (below != nullptr) store_lanes(own, below + half * kMaskLanes, zeros);
  }
}

// Logits become weights times the rate, products gradients of the logits, both in lines too, where only lanes that are
// queries are written: of a key that is infinite the others would make NaN. A line begins where its first query's key stands.
// Returns the products of the output, without the rate, and its gradient.
template <int K, int S>
ACMIX_APART Vector<float> direct_softmax_backward(float* weights, float* grads, int64_t count, float rate, const Mask& own,
                                                  float* weight_line, float* grad_line, int64_t line) {
  constexpr int64_t lanes = kMaskLanes;
  const Vector<float> sum = exponentials(weights, count, lanes);
  Vector<float> sums[kChains]{};
  int64_t o = 0;
  for (; o + kChains <= count; o += kChains) {
    ACMIX_UNROLL
    for (int64_t i = 0; i < kChains; ++i) sums[i] += load(weights + (o + i) * lanes) * load(grads + (o + i) * lanes);
  }
  for (; o < count; ++o) sums[0] += load(weights + o * lanes) * load(grads + o * lanes);
  // Where one weight is all, its gradient is exactly zero: nothing is multiplied before the difference.
  const Vector<float> mean = total<float>(sums) / sum, factor = rate / sum, per_power = factor * static_cast<float>(1 / kLog2E);
  for (; count > 0; count -= K, weights += K * lanes, grads += K * lanes, weight_line += K * line, grad_line += K * line) {
    ACMIX_UNROLL
    for (o = 0; o < K; ++o) {
      const int64_t at = o * line + WindowColumn<K, S>::place(o);
      const Vector<float> power = load(weights + o * lanes), grad = power * per_power * (load(grads + o * lanes) - mean);
      store_or_zeros(own, weight_line + at, power * factor);
      store_or_zeros(own, grad_line + at, grad);
      store(grads + o * lanes, grad);
    }
  }
  return mean;
}

// One unit's memory and what it is made of.
template <int K, int S>
class DirectBackward {
 public:
  DirectBackward(const Attention& a, int64_t block_rows)
      : a_(a), plan_(a), lines_(plan_.tiles), block_(block_rows), row_(plan_.row),
        packed_size_(least((block_rows - 1) * S + K, a.height) * row_), query_size_(a.width * lines_.length),
        weights_size_(K * K * lines_.length), tile_size_(kGroup * K * K * lanes), result_size_(S == 1 ? 0 : kGroup * a.width * lanes),
        scratch_(2 * Memory::size_of(packed_size_ + kMaskLanes) + 2 * Memory::size_of(kGroup * query_size_) + 2 * Memory::size_of(kGroup * weights_size_)),
        sums_(2 * Memory::size_of(packed_size_) + 2 * Memory::size_of(tile_size_) + Memory::size_of(result_size_) + Memory::size_of(a.columns), Holds::anything),
        keys_(scratch_.take(packed_size_ + kMaskLanes) + kPackedFrom<K, S>), values_(scratch_.take(packed_size_ + kMaskLanes) + kPackedFrom<K, S>), grad_keys_(sums_.take(packed_size_)),
        grad_values_(sums_.take(packed_size_)), queries_(scratch_.take(kGroup * query_size_) + Lines::margin),
        grads_(scratch_.take(kGroup * query_size_) + Lines::margin),
        weights_(scratch_.take(kGroup * weights_size_) + Lines::margin),
        grad_weights_(scratch_.take(kGroup * weights_size_) + Lines::margin), tile_weights_(sums_.take(tile_size_)),
        tile_grads_(sums_.take(tile_size_)), result_(sums_.take(result_size_)), code_line_(sums_.take(a.columns)),
        scale_(static_cast<float>(a.scale * kLog2E)), rate_(rate_of<float>(a)) {}

  // Gradients of one head of one image; returns that of the rate.
  double run(int64_t batch, int64_t head) {
    const int64_t *k = a_.grad_k.strides, *v = a_.grad_v.strides;
    float* const map_k = static_cast<float*>(a_.grad_k.data) + batch * k[0] + head * k[1];
    float* const map_v = static_cast<float*>(a_.grad_v.data) + batch * v[0] + head * v[1];
    written_ = 0;
    const KeyCode none{Rows(nullptr, 0, 0)}, code{Rows(a_.position, 0, 0), a_.code == nullptr ? nullptr : &a_, code_line_};
    double grad_rate = 0;
    for (int64_t top = 0; top < a_.out_height; top += block_) {
      const int64_t bottom = least(top + block_, a_.out_height);
      first_ = plan_.first_row(top), last_ = plan_.last_row(bottom - 1) + 1;
      const Rows keys = pack_direct(plan_, Rows(a_.k, batch, head), code, 1, first_, last_, keys_);
      const Rows values = pack_direct(plan_, Rows(a_.v, batch, head), none, 1, first_, last_, values_);
      ::memset(static_cast<void*>(grad_keys_), 0, (last_ - first_) * row_ * sizeof(float));
      ::memset(static_cast<void*>(grad_values_), 0, (last_ - first_) * row_ * sizeof(float));
      for (int64_t y = top, rows; y < bottom; y += rows) {
        rows = rows_of_tile<K>(kGroup, bottom - y);
        for (int64_t tile = 0; tile < plan_.tiles; ++tile) {
          DirectTile<K, S> t(plan_, tile);
          t.y = y, t.rows = rows;
          if (rows == 1) grad_rate += tile_back<1>(t, batch, head, keys, values);
          else if (rows == 3) grad_rate += tile_back<3>(t, batch, head, keys, values);
          else if constexpr (K == 7) grad_rate += tile_back<2>(t, batch, head, keys, values);
        }
        spread(y, rows);
      }
      unpack(grad_keys_, map_k);
      unpack(grad_values_, map_v);
      written_ = last_;
    }
    return grad_rate;
  }

 private:
  static constexpr int64_t lanes = kMaskLanes;
  using Memory = Scratch<float>;

  // Weights and their gradients of one tile, and the gradient of its queries.
  template <int ROWS>
  double tile_back(const DirectTile<K, S>& t, int64_t batch, int64_t head, const Rows& keys, const Rows& values) {
    const int64_t x = t.tile * lanes, line = lines_.length;
    const Rows from_queries(a_.q, batch, head), from_grads(a_.grad, batch, head);
    const TileRows queries{queries_ + x, line, query_size_, next_of<S>(t, from_queries)};
    const TileRows grads{grads_ + x, line, query_size_, next_of<1>(t, from_grads)};
    read_direct<S>(t, from_queries, scale_, queries_ + x, line, query_size_);
    read_direct<1>(t, from_grads, 1.0f, grads_ + x, line, query_size_);
    direct_scores<ROWS>(t, plan_.of_tile(plan_.logits, t.tile), queries, keys, tile_weights_);
    direct_scores<ROWS>(t, plan_.of_tile(plan_.products, t.tile), grads, values, tile_grads_);
    double grad_rate = 0;
    Vector<float> factors[ROWS];
    for (int64_t r = 0; r < ROWS; ++r) {
      const int64_t from = r * K * K * lanes, to = r * weights_size_ + x;
      const Vector<float> products = direct_softmax_backward<K, S>(tile_weights_ + from, tile_grads_ + from, t.taps(r), rate_, t.own,
                                                             weights_ + to, grad_weights_ + to, line);
      for (int64_t lane = 0; lane < least(lanes, a_.out_columns - x); ++lane) grad_rate += products[lane];
      factors[r] = splat(scale_);
    }
    if constexpr (S == 1) {
      direct_gathers<ROWS>(t, tile_grads_, keys, factors, OutRows(a_.grad_q, batch, head).from(t.y, x));
    } else {
      const OutRows local{result_, lanes, a_.width * lanes}, out(a_.grad_q, batch, head);
      direct_gathers<ROWS>(t, tile_grads_, keys, factors, local);
      for (int64_t r = 0; r < ROWS; ++r) {
        for (int64_t d = 0; d < a_.width; ++d) {
          float* const to = out.data + (t.y + r) * S * out.row + d * out.channel + x * S;
          float* const below = (t.y + r) * S + 1 < a_.height ? to + out.row : nullptr;
          write_apart(result_ + r * local.row + d * lanes, a_.columns - x * S, to, below);
        }
      }
    }
    return grad_rate;
  }

  // Where the next tile's rows begin in the map, STEP apart.
  template <int STEP>
  Rows next_of(const DirectTile<K, S>& t, const Rows& from) const {
    const bool last = t.tile + 1 == plan_.tiles;
    const int64_t y = last ? t.y + t.rows : t.y, x = last ? 0 : (t.tile + 1) * lanes;
    return {from.data + STEP * (y * from.row + x), from.channel, STEP * from.row};
  }

  // What some query rows give to all keys and values that they see.
  void spread(int64_t y, int64_t rows) {
    spread_phase<0>(y, rows);
    if constexpr (S == 2) spread_phase<1>(y, rows);
  }

  // In as few vectors as hold the map's columns of a phase, aligned where that takes no more. Column by column: the sums then
  // stay in the first cache from row to row.
  template <int P>
  void spread_phase(int64_t y, int64_t rows) {
    const int64_t before = WindowColumn<K, S>::before(P), columns = (a_.columns - P + S - 1) / S, line = lines_.length;
    const bool aligned = round_up(before + columns, lanes) == round_up(columns, lanes);
    const bool inside = rows == kGroup && a_.width % 2 == 0 && y * S >= K / 2 && (y + kGroup - 1) * S + K / 2 < a_.height;
    for (int64_t x = aligned ? 0 : before; x < before + columns; x += lanes) {
      if constexpr (K > 3 && kRegisters == 32) {  // three rows of smaller windows share too little
        if (inside) {
          const int64_t to = (plan_.first_row(y) - first_) * row_ + P * plan_.phase + x;
          direct_spread_groups<P>(plan_, grad_weights_ + x, weights_size_, queries_ + x, query_size_, line, grad_keys_ + to);
          direct_spread_groups<P>(plan_, weights_ + x, weights_size_, grads_ + x, query_size_, line, grad_values_ + to);
          continue;
        }
      }
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t first = plan_.first_row(y + r), count = plan_.last_row(y + r) - first + 1;
        const int64_t weights = r * weights_size_ + x, query = r * query_size_ + x, to = (first - first_) * row_ + P * plan_.phase + x;
        direct_spread_column<P>(plan_, grad_weights_ + weights, queries_ + query, line, count, grad_keys_ + to);
        direct_spread_column<P>(plan_, weights_ + weights, grads_ + query, line, count, grad_values_ + to);
      }
    }
  }

  // What a key row gets from this block of queries; from the block before it has got some already or nothing yet.
  void unpack(const float* packed, float* to) const {
    const RowWalk walk(first_, last_, a_.columns, a_.height * a_.columns, a_.columns);
    for (int64_t d = 0; d < a_.width; ++d) {
      for (int64_t y = first_; y < last_; ++y) {
        const float* const ahead = to + walk.ahead(d, y);
        const float* const from = packed + (y - first_) * row_ + d * plan_.pitch;
        float* const row = to + (d * a_.height + y) * a_.columns;
        if (y < written_) unpack_row<true, K, S>(from, ahead, a_.columns, plan_.phase, row);
        else unpack_row<false, K, S>(from, ahead, a_.columns, plan_.phase, row);
      }
    }
  }

  const Attention& a_;
  const DirectPlan<K, S> plan_;
  const Lines lines_;
  int64_t block_, row_, packed_size_, query_size_, weights_size_, tile_size_, result_size_;
  Memory scratch_, sums_;
  float *keys_, *values_, *grad_keys_, *grad_values_, *queries_, *grads_, *weights_, *grad_weights_, *tile_weights_, *tile_grads_, *result_, *code_line_;
  float scale_, rate_;
  int64_t first_ = 0, last_ = 0, written_ = 0;  // the key rows that are packed; how many have been written to the map
};

template <int K, int S>
void attention_backward_direct(const Attention& a, int64_t first_unit, int64_t last_unit) {
  DirectBackward<K, S> backward(a, rows_of_unit(a, kGroup));
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const double grad_rate = backward.run(unit / a.heads, unit % a.heads);
    if (a.grad_rate != nullptr) static_cast<float*>(a.grad_rate)[unit] = static_cast<float>(grad_rate);
  }
}

}  // namespace acmix::ACMIX_ISA
#endif
