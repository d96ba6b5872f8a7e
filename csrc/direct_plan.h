// Dense rows of float32 for window attention with masks: what is the same for all heads and images, and how rows are packed,
// also those of the convolution path at a stride of two.
#pragma once
#include "attention_forward.h"
#include "masks.h"

#ifdef ACMIX_HAS_MASKS
namespace acmix::ACMIX_ISA {

inline bool has_dense_rows(const View& view) { return view.dtype == Dtype::float32 && view.strides[4] == 1; }

inline bool reads_directly(const Attention& a) {
  const bool usual = a.kernel == 3 || a.kernel == 5 || a.kernel == 7;
  return usual && a.stride <= 2 && a.dilation == 1 && has_dense_rows(a.q) && has_dense_rows(a.k) && has_dense_rows(a.v) &&
         (a.position.data == nullptr || has_dense_rows(a.position));
}

inline bool attends_directly(const Attention& a) { return reads_directly(a) && has_dense_rows(a.out); }

inline bool attends_back_directly(const Attention& a) {
  return reads_directly(a) && has_dense_rows(a.grad) && has_dense_rows(a.grad_q);
}

// Entries that are asked for before they are needed: short rows one after the other are no pattern that processors foresee.
constexpr int64_t kAhead = 768;

// Where a walk through rows first..last of each channel, channel by channel, comes kAhead entries after (d, y).
struct RowWalk {
  int64_t first, last, channel, row, rows;

  RowWalk(int64_t first_, int64_t last_, int64_t columns, int64_t channel_, int64_t row_)
      : first(first_), last(last_), channel(channel_), row(row_), rows(least(1 + kAhead / columns, last_ - first_)) {}

  int64_t ahead(int64_t d, int64_t y) const {
    const int64_t next = y + rows;
    return next < last ? d * channel + next * row : (d + 1) * channel + (first + next - last) * row;
  }
};

// Rows of one head: entry (d, y, x) is data[d * channel + y * row + x].
struct Rows {
  const float* data;
  int64_t channel, row;

  Rows(const float* from, int64_t channel_, int64_t row_) : data(from), channel(channel_), row(row_) {}
  Rows(const View& view, int64_t batch, int64_t head)
      : data(static_cast<const float*>(view.data) + batch * view.strides[0] + head * view.strides[1]),
        channel(view.strides[2]), row(view.strides[3]) {}
};

// The same to be written.
struct OutRows {
  float* data;
  int64_t channel, row;

  OutRows(float* from, int64_t channel_, int64_t row_) : data(from), channel(channel_), row(row_) {}
  OutRows(const View& view, int64_t batch, int64_t head)
      : data(static_cast<float*>(view.data) + batch * view.strides[0] + head * view.strides[1]),
        channel(view.strides[2]), row(view.strides[3]) {}
  OutRows from(int64_t y, int64_t x) const { return {data + y * row + x, channel, row}; }
};

// Rows of a tile, a vector for each channel; those of the next tile stand in the map from `next` on.
struct TileRows {
  const float* data;
  int64_t channel, row;
  Rows next;
};

// How often the window around i, reflected at the borders, shows each index of an axis, as a power of two.
struct Multiplicity {
  int64_t size, reach;

  float operator()(int64_t i, int64_t j) const {
    if (j < 0 || j >= size) return -HUGE_VALF;  // below any logit
    if (i >= reach && i + reach < size) return 0;
    int64_t count = 0;
    for (int64_t o = -reach; o <= reach; ++o) count += reflect(i + o, size) == j;
    return ::log2f(static_cast<float>(count));
  }
};

// What is added to the products of queries with keys, by the column and by the row: logarithms of how often the window shows
// the key.
struct DirectBorder {
  float* columns;  // [tiles][K][lanes]
  float* rows;     // [H'][K], by the key row's distance from the query's plus the reach
};

// The same for one tile, and what the position code adds, of which each query has its own slopes.
struct TileBorder {
  const float *columns, *rows;
  int64_t row;          // from one query row's columns [K][lanes] to the next one's, or 0
  const float* slopes;  // of each query row by the key's row: [lanes]
  int64_t slope;        // from one query row's to the next one's, or 0
  const float* down;    // the places of rows
  int64_t step;         // 1, or 0 where there are none
};

// Borders by tile of columns and by row. At a stride of two a packed row has its even columns first, then its odd ones.
template <int K, int S>
struct DirectPlan {
  static constexpr int64_t lanes = kMaskLanes, reach = K / 2;
  const Attention& call;
  int64_t tiles, phase, pitch;  // entries of one phase of a packed row, and of all
  bool folded = false;          // whether two heads share the last tile of a row
  int64_t row;  // entries of all channels, an odd number of cache lines: rows below each other spread over the cache
  Scratch<float> memory;
  DirectBorder logits, products;  // zeros for products that are no logits
  float* places;                  // of the keys' columns, [tiles][K][lanes], where the position code comes in parts

  explicit DirectPlan(const Attention& a)
      : call(a), tiles((a.out_columns + lanes - 1) / lanes), phase(phase_of(a)), pitch(S * phase),
        row(round_up(a.width * pitch, 32) + 16),
        memory(3 * Scratch<float>::size_of(tiles * K * lanes) + 2 * Scratch<float>::size_of(a.out_height * K)),
        logits(border()), products(border()), places(memory.take(tiles * K * lanes)) {
    const Multiplicity across{a.columns, reach}, down{a.height, reach};
    for (int64_t x = 0; x < a.out_columns; ++x) {
      for (int64_t o = 0; o < K; ++o) {
        const int64_t to = (x / lanes * K + o) * lanes + x % lanes, key = x * S + o - reach;
        logits.columns[to] = across(x * S, key);
        if (a.across != nullptr && key >= 0 && key < a.columns) places[to] = a.across[key];
      }
    }
    for (int64_t y = 0; y < a.out_height; ++y) {
      for (int64_t o = 0; o < K; ++o) logits.rows[y * K + o] = down(y * S, y * S + o - reach);
    }
  }

  // At a stride of two nothing stands behind the last tile where its own queries see nothing there: packed rows and their sums
  // are to stay in the second cache.
  static int64_t phase_of(const Attention& a) { return round_up(a.out_columns + (S == 1 ? lanes : reach), lanes); }

  // Both halves of the last tile are to see the columns that there are.
  void fold() {
    folded = true;
    const int64_t first = (tiles - 1) * K * lanes, last = tiles * K * lanes;
    for (int64_t i = first; i < last; i += lanes) {
      ::memcpy(logits.columns + i + lanes / 2, logits.columns + i, lanes / 2 * sizeof(float));
      ::memcpy(places + i + lanes / 2, places + i, lanes / 2 * sizeof(float));
    }
  }

  DirectBorder border() { return {memory.take(tiles * K * lanes), memory.take(call.out_height * K)}; }

  TileBorder of_tile(const DirectBorder& of, int64_t tile) const {
    return {of.columns + tile * K * lanes, of.rows, 0, products.columns, 0, products.columns, 0};
  }

  // The key rows that a query row sees.
  int64_t first_row(int64_t y) const { return y * S < reach ? 0 : y * S - reach; }
  int64_t last_row(int64_t y) const { return least(y * S + reach, call.height - 1); }
};

// Where one of the window's columns stands in a packed row: its phase, and its place there relative to the query's. The
// first of each phase is aligned.
template <int K, int S>
struct WindowColumn {
  static constexpr int phase(int o) { return S == 1 ? 0 : (o + K / 2) % 2; }
  // Entries before the map's first column of a phase.
  static constexpr int before(int which) { return S == 1 ? K / 2 : (K / 2 + which) / 2; }
  static constexpr int place(int o) { return S == 1 ? o : (o - K / 2 - phase(o)) / 2 + before(phase(o)); }
};

// Entries that a packed row lies behind the beginning of a cache line, so that the one that is read most is aligned.
template <int K, int S>
constexpr int64_t kPackedFrom = kCuts && S == 1 ? kMaskLanes - K / 2 : 0;

// What the window's columns show of a packed row, one after the other. A vector of 64 bytes across two cache lines takes as
// long to read as four products: one is aligned, its neighbours are cut from it and the aligned ones next to it, which costs half
// a product. Shorter vectors are read where they stand.
template <int K, int S, bool FOLDED = false>
struct Sliding {
  static constexpr int middle = S == 1 ? K / 2 : 0;
  const float* at[S];
  Vector<float> left, right[S], aligned[S];

  Sliding() = default;
  ACMIX_INLINE Sliding(const float* from, int64_t phase) {
    ACMIX_UNROLL
    for (int p = 0; p < S; ++p) {
      at[p] = from + p * phase + middle;
      if constexpr (kCuts) {
        if constexpr (S == 1) left = load_once(at[p] - kMaskLanes);
        aligned[p] = load_once(at[p]);
        right[p] = load_once(at[p] + kMaskLanes);
      }
    }
  }

  ACMIX_INLINE Vector<float> operator[](int o) const {
    const int p = WindowColumn<K, S>::phase(o), place = WindowColumn<K, S>::place(o) - middle;
    if constexpr (kCuts) {
      if (place == 0) return aligned[p];
      if (place == 1) return lanes_from<1>(aligned[p], right[p]);
      if (place == 2) return lanes_from<2>(aligned[p], right[p]);
      if constexpr (S == 1) {
        if (place == -1) return lanes_from<kMaskLanes - 1>(left, aligned[0]);
        if (place == -2) return lanes_from<kMaskLanes - 2>(left, aligned[0]);
      }
    }
    return load_once(at[p] + place);
  }
};

// Rows of the next tile, of those that are left: windows other than the paper's have no code for two.
template <int K>
constexpr int64_t rows_of_tile(int64_t group, int64_t left) {
  if (left >= group) return group;
  return K != 7 && left == 2 ? 1 : left;
}

// How many tiles so many rows or fewer make, at most.
template <int K>
constexpr int64_t tiles_of_rows(int64_t group, int64_t rows) {
  return (rows + group - 1) / group + (K == 7 ? 0 : 1);
}

// A tile of some query rows and one vector of columns, or of two heads' last half ones.
template <int K, int S, bool FOLDED = false>
struct DirectTile {
  const DirectPlan<K, S>& plan;
  int64_t tile, y, rows;
  int64_t rows_on = 0, columns_on = 0;  // from this tile to the next one
  Mask own;                             // lanes that are queries

  DirectTile(const DirectPlan<K, S>& p, int64_t tile_)
      : plan(p), tile(tile_), y(0), rows(0), own(lanes_between(0, p.call.out_columns - tile_ * kMaskLanes)) {}

  // Where its keys and values begin in a packed row.
  int64_t place() const { return FOLDED ? 0 : tile * kMaskLanes; }

  // Where the weights of one of the tile's rows with a key row stand.
  int64_t line(int64_t r, int64_t key) const { return (r * K + key - plan.first_row(y + r)) * K * kMaskLanes; }

  // Entries from what this tile reads or writes to the same of the next one.
  int64_t ahead(int64_t row) const { return rows_on * row + columns_on; }

  // How many keys one of the tile's rows sees.
  int64_t taps(int64_t r) const { return (plan.last_row(y + r) - plan.first_row(y + r) + 1) * K; }
};

// Calls body(rows of the tile that see it, key row) for all key rows of a tile of ROWS rows, from the FROM'th on.
template <int ROWS, int FROM = 0, int K, int S, bool FOLDED, class F>
ACMIX_INLINE void for_each_direct_row(const DirectTile<K, S, FOLDED>& t, const F& body) {
  if constexpr (FROM < (ROWS - 1) * S + K) {
    constexpr int R0 = FROM < K ? 0 : (FROM - K) / S + 1, R1 = FROM / S + 1 < ROWS ? FROM / S + 1 : ROWS;
    constexpr int leaves = R0 * S + K, enters = R1 < ROWS ? R1 * S : leaves;  // where another row begins or ends to see them
    constexpr int next = leaves < enters ? leaves : enters;
    const int64_t above = t.y * S - K / 2, last = least(above + next, t.plan.call.height);
    for (int64_t key = above + FROM < 0 ? 0 : above + FROM; key < last; ++key) body(Seeing<R0, R1>{}, key);
    for_each_direct_row<ROWS, next>(t, body);
  }
}

// A tile's columns of a row, STEP apart; zeros in lanes that are none.
template <int STEP>
struct ColumnsApart {
  static constexpr int parts = STEP;  // vectors that are read
  Mask masks[parts];
  bool whole;

  ColumnsApart(int64_t first, int64_t columns) : whole(first + parts * kMaskLanes <= columns) {
    for (int i = 0; i < parts; ++i) masks[i] = lanes_between(0, columns - first - i * kMaskLanes);
  }

  ACMIX_INLINE Vector<float> read(const float* from) const {
    return whole ? of([&](int i) { return load(from + i * kMaskLanes); })
                 : of([&](int i) { return load_lanes(masks[i], from + i * kMaskLanes); });
  }

 private:
  template <class F>
  ACMIX_INLINE Vector<float> of(F part) const {
    if constexpr (STEP == 1) return part(0);
    else return every_second<0>(part(0), part(1));
  }
};

// Rows of the tile, STEP apart in the map, times a factor; zeros in lanes that are none.
template <int STEP, int K, int S>
ACMIX_APART void read_direct(const DirectTile<K, S>& t, const Rows& from, float factor, float* to, int64_t channel, int64_t row) {
  const int64_t width = t.plan.call.width, x = STEP * t.tile * kMaskLanes;
  const ColumnsApart<STEP> columns(x, STEP == S ? t.plan.call.columns : t.plan.call.out_columns);
  for (int64_t d = 0; d < width; ++d) {
    const float* line = from.data + t.y * STEP * from.row + d * from.channel + x;
    for (int64_t r = 0; r < t.rows; ++r, line += STEP * from.row) {
      store(to + r * row + d * channel, columns.read(line) * factor);
    }
  }
}

// Zeros where a packed row shows what is beyond the map; its columns are written over some of them. Rows that are packed there
// one after the other leave them.
template <int S>
ACMIX_INLINE void clear_borders(int64_t phase, float* to) {
  for (int64_t p = 0; p < S; ++p, to += phase) {
    store(to, Vector<float>{});
    store(to + (phase > 2 * kMaskLanes ? phase - 2 * kMaskLanes : 0), Vector<float>{});
    store(to + phase - kMaskLanes, Vector<float>{});
  }
}

// Entries of a row, from functions that give a vector of them from an entry on, or the same of those that are in a mask; `ahead`
// is asked for. The last whole vector ends with the row: some entries come twice.
template <class W, class P>
ACMIX_INLINE void pack_in_order(const float* ahead, int64_t count, W whole, P some, float* to) {
  constexpr int64_t lanes = kMaskLanes, line = 64 / sizeof(float);
  int64_t x = 0;
  for (; x + line <= count; x += line) {
    __builtin_prefetch(ahead + x);
    ACMIX_UNROLL
    for (int64_t v = 0; v < line; v += lanes) store(to + x + v, whole(x + v));
  }
  __builtin_prefetch(ahead + x);
  for (; x + lanes <= count; x += lanes) store(to + x, whole(x));
  if (x == count) return;
  if (count < lanes) store(to, some(0, lanes_between(0, count)));
  else store(to + count - lanes, whole(count - lanes));
}

// The same with even entries to one place and odd ones to another; `entry` gives one alone.
template <class W, class P, class E>
ACMIX_INLINE void pack_by_parity(const float* ahead, int64_t count, W whole, P some, E entry, float* even, float* odd) {
  constexpr int64_t lanes = kMaskLanes, line = 64 / sizeof(float);
  const auto put = [&](int64_t x, auto read) __attribute__((always_inline)) {
    const Parities both = parities(read(x), read(x + lanes));
    store(even + x / 2, both.even);
    store(odd + x / 2, both.odd);
  };
  int64_t x = 0;
  for (; x + 2 * lanes <= count; x += 2 * lanes) {
    for (int64_t v = 0; v < 2 * lanes; v += line) __builtin_prefetch(ahead + x + v);
    put(x, whole);
  }
  __builtin_prefetch(ahead + x);
  if (x == count) return;
  if (count < 2 * lanes) return put(0, [&](int64_t c) { return some(c, lanes_between(0, count - c)); });
  if (x + 1 < count) put(count / 2 * 2 - 2 * lanes, whole);
  if (count % 2 != 0) even[count / 2] = entry(count - 1);
}

template <int K, int S, class W, class P, class E>
ACMIX_INLINE void pack_entries(const float* ahead, int64_t columns, int64_t phase, W whole, P some, E entry, float* to) {
  using Column = WindowColumn<K, S>;
  if constexpr (S == 1) pack_in_order(ahead, columns, whole, some, to + Column::before(0));
  else pack_by_parity(ahead, columns, whole, some, entry, to + Column::before(0), to + phase + Column::before(1));
}

// One row of keys or values, less the position code where there is one, times a factor, to memory with clear borders.
template <int K, int S>
ACMIX_INLINE void pack_row(const float* from, const float* less, float factor, const float* ahead, int64_t columns, int64_t phase,
                           float* to) {
  if (less == nullptr) {
    pack_entries<K, S>(
        ahead, columns, phase, [&](int64_t x) { return load(from + x) * factor; },
        [&](int64_t x, const Mask& own) { return load_lanes(own, from + x) * factor; }, [&](int64_t x) { return from[x] * factor; }, to);
  } else {
    pack_entries<K, S>(
        ahead, columns, phase, [&](int64_t x) { return (load(from + x) - load(less + x)) * factor; },
        [&](int64_t x, const Mask& own) { return (load_lanes(own, from + x) - load_lanes(own, less + x)) * factor; },
        [&](int64_t x) { return (from[x] - less[x]) * factor; }, to);
  }
}

// Where so many rows of keys or values will be packed. Lanes that are no queries see a little of what is behind the last channel.
template <int K, int S>
inline void clear_borders(const DirectPlan<K, S>& plan, int64_t rows, float* to) {
  for (int64_t y = 0; y < rows; ++y, to += plan.row) {
    for (int64_t d = 0; d < plan.call.width; ++d) clear_borders<S>(plan.phase, to + d * plan.pitch);
    store(to + plan.call.width * plan.pitch, Vector<float>{});
  }
}

// The position code of keys: none, a map, or rows that are made of a call's parts, each in `line` when it is asked for.
struct KeyCode {
  Rows map;
  const Attention* in_parts = nullptr;
  float* line = nullptr;

  const float* row(int64_t d, int64_t y, int64_t columns) const {
    if (in_parts == nullptr) return map.data == nullptr ? nullptr : map.data + d * map.channel + y * map.row;
    const float by_column = in_parts->code[2 * d], by_row = in_parts->code[2 * d + 1] * in_parts->down[y];
    for_each_vector(in_parts->across, columns, line, [&](Vector<float> place, Vector<float>) { return place * by_column + by_row; });
    return line;
  }
};

// Rows first..last of keys or values, less the position code where there is one, times a factor: [rows][D][pitch], in memory with
// clear borders. Channel by channel: rows of one channel follow each other in memory.
template <int K, int S>
inline Rows pack_direct(const DirectPlan<K, S>& plan, const Rows& from, const KeyCode& code, float factor, int64_t first, int64_t last,
                        float* to) {
  const int64_t width = plan.call.width;
  const RowWalk walk(first, last, plan.call.columns, from.channel, from.row);
  for (int64_t d = 0; d < width; ++d) {
    for (int64_t y = first; y < last; ++y) {
      pack_row<K, S>(from.data + d * from.channel + y * from.row, code.row(d, y, plan.call.columns), factor, from.data + walk.ahead(d, y), plan.call.columns,
                     plan.phase, to + (y - first) * plan.row + d * plan.pitch);
    }
  }
  return {to - first * plan.row, plan.pitch, plan.row};
}

}  // namespace acmix::ACMIX_ISA
#endif
