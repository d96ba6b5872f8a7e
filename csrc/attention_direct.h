// Window attention, forward, on dense rows of float32: keys and values are packed with zeros beyond the border, where their
// logits tell that they are none; those within count as often as reflection shows them, by the logarithm of that number.
#pragma once
#include "attention_forward.h"
#include "masks.h"

#ifdef ACMIX_HAS_MASKS
namespace acmix::ACMIX_ISA {

inline bool has_dense_rows(const View& view) { return view.dtype == Dtype::float32 && view.strides[4] == 1; }

inline bool attends_directly(const Attention& a) {
  const bool usual = a.kernel == 3 || a.kernel == 5 || a.kernel == 7;
  return usual && a.stride == 1 && a.dilation == 1 && has_dense_rows(a.q) && has_dense_rows(a.k) && has_dense_rows(a.v) &&
         has_dense_rows(a.out) && (a.position.data == nullptr || has_dense_rows(a.position));
}

// Rows of one head: entry (d, y, x) is data[d * channel + y * row + x].
struct Rows {
  const float* data;
  int64_t channel, row;

  Rows(const float* from, int64_t channel_, int64_t row_) : data(from), channel(channel_), row(row_) {}
  Rows(const View& view, int64_t batch, int64_t head)
      : data(static_cast<const float*>(view.data) + batch * view.strides[0] + head * view.strides[1]),
        channel(view.strides[2]), row(view.strides[3]) {}
};

// How often the window around i, reflected at the borders, shows each index of an axis, as a power of two.
struct Multiplicity {
  int64_t size, reach;

  float operator()(int64_t i, int64_t j) const {
    if (j < 0 || j >= size) return -1e30f;
    int64_t count = 0;
    for (int64_t o = -reach; o <= reach; ++o) count += reflect(i + o, size) == j;
    return ::log2f(static_cast<float>(count));
  }
};

// What is the same for all heads and images: borders, by tile of columns and by row.
template <int K>
struct DirectPlan {
  static constexpr int64_t lanes = kMaskLanes, reach = K / 2;
  const Attention& call;
  int64_t tiles, pitch;  // of packed rows, whose first column is `reach` before the map's
  Scratch<float> memory;
  float* columns;  // [tiles][K][lanes]
  float* rows;     // [H][K], by the key row's distance from the query's plus the reach

  explicit DirectPlan(const Attention& a)
      : call(a), tiles((a.columns + lanes - 1) / lanes), pitch((tiles + 1) * lanes),
        memory(Scratch<float>::size_of(tiles * K * lanes) + Scratch<float>::size_of(a.height * K)),
        columns(memory.take(tiles * K * lanes)), rows(memory.take(a.height * K)) {
    const Multiplicity across{a.columns, reach}, down{a.height, reach};
    for (int64_t x = 0; x < tiles * lanes; ++x) {
      for (int64_t o = 0; o < K; ++o) columns[(x / lanes * K + o) * lanes + x % lanes] = x < a.columns ? across(x, x + o - reach) : 0;
    }
    for (int64_t y = 0; y < a.height; ++y) {
      for (int64_t o = 0; o < K; ++o) rows[y * K + o] = down(y, y + o - reach);
    }
  }

  int64_t first_row(int64_t y) const { return y < reach ? 0 : y - reach; }
  int64_t last_row(int64_t y) const { return least(y + reach, call.height - 1); }
};

// A tile of up to kGroup query rows and one vector of columns.
template <int K>
struct DirectTile {
  const DirectPlan<K>& plan;
  int64_t tile, y, rows;
  Mask own;            // lanes that are queries
  float* queries;      // [kGroup][D][lanes], times the scale
  float* weights;      // [kGroup][K * K][lanes]

  DirectTile(const DirectPlan<K>& p, int64_t tile_, float* queries_, float* weights_)
      : plan(p), tile(tile_), y(0), rows(0), own(lanes_between(0, p.call.columns - tile_ * kMaskLanes)), queries(queries_),
        weights(weights_) {}

  // Weights of one of the tile's rows with a key row.
  float* line(int64_t r, int64_t key) const {
    return weights + (r * K + key - plan.first_row(y + r)) * K * kMaskLanes;
  }
};

// What K neighbouring offsets show of a packed row, one after the other. A vector across two cache lines takes as long to
// read as four products: the first is aligned, the next two are cut from it and its neighbour, which costs half a product.
struct Sliding {
  const float* at;
  Vector<float> left, right;

  Sliding() = default;
  explicit ACMIX_INLINE Sliding(const float* from) : at(from), left(load_once(from)), right(load_once(from + kMaskLanes)) {}

  ACMIX_INLINE Vector<float> operator[](int o) const {
    if (o == 0) return left;
    if (o == 1) return lanes_from<1>(left, right);
    if (o == 2) return lanes_from<2>(left, right);
    return load_once(at + o);
  }
};

// Logits of the tile's rows R0..R1 with one key row, which begins at the window's first column.
template <int K, int R0, int R1>
ACMIX_INLINE void direct_score(const DirectTile<K>& t, const float* key, int64_t channel, int64_t key_row) {
  const DirectPlan<K>& plan = t.plan;
  const float* columns = plan.columns + t.tile * K * kMaskLanes;
  Vector<float> sums[R1 - R0][K];
  ACMIX_UNROLL
  for (int r = R0; r < R1; ++r) {
    const Vector<float> row = splat(plan.rows[(t.y + r) * K + key_row - (t.y + r) + K / 2]);
    ACMIX_UNROLL
    for (int o = 0; o < K; ++o) sums[r - R0][o] = load(columns + o * kMaskLanes) + row;
  }
  const int64_t width = plan.call.width, step = width * kMaskLanes;
  const float* query = t.queries + R0 * step;
  for (int64_t d = 0; d < width; ++d, key += channel, query += kMaskLanes) {
    Vector<float> queries[R1 - R0];
    ACMIX_UNROLL
    for (int r = 0; r < R1 - R0; ++r) queries[r] = load_once(query + r * step);
    const Sliding keys(key);
    ACMIX_UNROLL
    for (int o = 0; o < K; ++o) {
      const Vector<float> of_key = keys[o];
      ACMIX_UNROLL
      for (int r = 0; r < R1 - R0; ++r) sums[r][o] += queries[r] * of_key;
    }
  }
  ACMIX_UNROLL
  for (int r = R0; r < R1; ++r) {
    float* to = t.line(r, key_row);
    ACMIX_UNROLL
    for (int o = 0; o < K; ++o) store(to + o * kMaskLanes, sums[r - R0][o]);
  }
}

// Calls body(rows of the group that see it, key row) for all key rows of a tile of ROWS rows.
template <int ROWS, int K, class F>
ACMIX_INLINE void for_each_direct_row(const DirectTile<K>& t, F body) {
  const int64_t height = t.plan.call.height, above = t.y - K / 2, below = t.y + K / 2;
  if constexpr (ROWS > 1) {
    if (above >= 0) body(Seeing<0, 1>{}, above);
  }
  if constexpr (ROWS > 2) {
    if (above + 1 >= 0) body(Seeing<0, 2>{}, above + 1);
  }
  const int64_t first = above + ROWS - 1, last = least(below, height - 1);
  for (int64_t key = first < 0 ? 0 : first; key <= last; ++key) body(Seeing<0, ROWS>{}, key);
  if constexpr (ROWS > 1) {
    if (below + 1 < height) body(Seeing<1, ROWS>{}, below + 1);
  }
  if constexpr (ROWS > 2) {
    if (below + 2 < height) body(Seeing<2, ROWS>{}, below + 2);
  }
}

template <int ROWS, int K>
ACMIX_APART void direct_scores(const DirectTile<K>& t, const Rows& keys) {
  const int64_t x = t.tile * kMaskLanes;
  for_each_direct_row<ROWS>(t, [&](auto seeing, int64_t key) __attribute__((always_inline)) {
    using S = decltype(seeing);
    direct_score<K, S::R0, S::R1>(t, keys.data + key * keys.row + x, keys.channel, key);
  });
}

// ND channels of the sums of weights times values, times `factors` of each row.
template <int ROWS, int ND, int K>
ACMIX_APART void direct_gather(const DirectTile<K>& t, const Rows& values, const Vector<float>* factors, float* out,
                               int64_t out_channel, int64_t out_row) {
  Vector<float> sums[ROWS][ND];
  ACMIX_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i) sums[r][i] = Vector<float>{};
  }
  for_each_direct_row<ROWS>(t, [&](auto seeing, int64_t key) __attribute__((always_inline)) {
    constexpr int R0 = decltype(seeing)::R0, R1 = decltype(seeing)::R1;
    const float* from = values.data + key * values.row + t.tile * kMaskLanes;
    Sliding channels[ND];
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i) channels[i] = Sliding(from + i * values.channel);
    const float* lines[ROWS];
    ACMIX_UNROLL
    for (int r = R0; r < R1; ++r) lines[r] = t.line(r, key);
    ACMIX_UNROLL
    for (int o = 0; o < K; ++o) {
      Vector<float> weights[ROWS];
      ACMIX_UNROLL
      for (int r = R0; r < R1; ++r) weights[r] = load_once(lines[r] + o * kMaskLanes);
      ACMIX_UNROLL
      for (int i = 0; i < ND; ++i) {
        const Vector<float> value = channels[i][o];
        ACMIX_UNROLL
        for (int r = R0; r < R1; ++r) sums[r][i] += weights[r] * value;
      }
    }
  });
  ACMIX_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i) store_lanes(t.own, out + r * out_row + i * out_channel, sums[r][i] * factors[r]);
  }
}

template <int ROWS, int K>
ACMIX_INLINE void direct_gathers(const DirectTile<K>& t, Rows values, const Vector<float>* factors, float* out,
                                 int64_t out_channel, int64_t out_row) {
  int64_t d = 0;
  for (; d + 4 <= t.plan.call.width; d += 4, values.data += 4 * values.channel, out += 4 * out_channel) {
    direct_gather<ROWS, 4>(t, values, factors, out, out_channel, out_row);
  }
  for (; d < t.plan.call.width; ++d, values.data += values.channel, out += out_channel) {
    direct_gather<ROWS, 1>(t, values, factors, out, out_channel, out_row);
  }
}

// Queries of the tile, times the scale; zero in lanes that are none.
template <int K>
ACMIX_INLINE void read_direct(const DirectTile<K>& t, const float* from, int64_t channel, int64_t row, float scale) {
  const int64_t width = t.plan.call.width;
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t d = 0; d < width; ++d) {
      store(t.queries + (r * width + d) * kMaskLanes, load_lanes(t.own, from + r * row + d * channel) * scale);
    }
  }
}

// Rows first..last of keys or values, less the position code where there is one: [rows][D][pitch] with zeros around.
template <int K>
inline Rows pack_direct(const DirectPlan<K>& plan, const Rows& from, const Rows& less, int64_t first, int64_t last, float* to) {
  const int64_t width = plan.call.width, columns = plan.call.columns, row = width * plan.pitch;
  for (int64_t y = first; y < last; ++y) {
    for (int64_t d = 0; d < width; ++d) {
      const float *line = from.data + d * from.channel + y * from.row, *minus = less.data + d * less.channel + y * less.row;
      float* packed = to + (y - first) * row + d * plan.pitch + K / 2;
      for (int64_t x = 0; x < columns; x += kMaskLanes) {
        const Mask own = lanes_between(0, columns - x);
        const Vector<float> entries = load_lanes(own, line + x);
        store_lanes(own, packed + x, less.data == nullptr ? entries : entries - load_lanes(own, minus + x));
      }
    }
  }
  return {to - first * row, plan.pitch, row};
}

// Where one head of one image is read and written.
struct DirectRows {
  Rows queries, keys, values;
  float* out;
  int64_t out_channel, out_row;
  float scale, rate;
};

template <int ROWS, int K>
ACMIX_INLINE void direct_rows(const DirectTile<K>& t, const DirectRows& of) {
  const int64_t taps_row = K * K * kMaskLanes, x = t.tile * kMaskLanes;
  read_direct(t, of.queries.data + t.y * of.queries.row + x, of.queries.channel, of.queries.row, of.scale);
  direct_scores<ROWS>(t, of.keys);
  Vector<float> factors[ROWS];
  for (int64_t r = 0; r < ROWS; ++r) {
    const int64_t count = (t.plan.last_row(t.y + r) - t.plan.first_row(t.y + r) + 1) * K;
    factors[r] = of.rate / exponentials(t.weights + r * taps_row, count, kMaskLanes);
  }
  direct_gathers<ROWS>(t, of.values, factors, of.out + t.y * of.out_row + x, of.out_channel, of.out_row);
}

template <int K>
void attention_forward_direct(const Attention& a, int64_t first_unit, int64_t last_unit) {
  constexpr int64_t lanes = kMaskLanes;
  const DirectPlan<K> plan(a);
  const float scale = static_cast<float>(a.scale * kLog2E), rate = rate_of<float>(a);
  const int64_t unit_rows = forward_rows(a), blocks = (a.out_height + unit_rows - 1) / unit_rows;
  const int64_t packed_size = least(unit_rows + 2 * plan.reach, a.height) * a.width * plan.pitch;
  using S = Scratch<float>;
  S scratch(S::size_of(kGroup * a.width * lanes) + S::size_of(kGroup * K * K * lanes) + 2 * S::size_of(packed_size));
  float* const queries = scratch.take(kGroup * a.width * lanes);
  float* const weights = scratch.take(kGroup * K * K * lanes);
  float* const packed_keys = scratch.take(packed_size);
  float* const packed_values = scratch.take(packed_size);
  const Rows code(a.position, 0, 0), nothing(nullptr, 0, 0);
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const int64_t head = unit / blocks % a.heads, batch = unit / blocks / a.heads;
    const int64_t top = unit % blocks * unit_rows, bottom = least(top + unit_rows, a.out_height);
    const int64_t first = plan.first_row(top), last = plan.last_row(bottom - 1) + 1, *o = a.out.strides;
    const Rows keys = pack_direct(plan, Rows(a.k, batch, head), code, first, last, packed_keys);
    const Rows values = pack_direct(plan, Rows(a.v, batch, head), nothing, first, last, packed_values);
    float* const out = static_cast<float*>(a.out.data) + batch * o[0] + head * o[1];
    const DirectRows rows_of{Rows(a.q, batch, head), keys, values, out, o[2], o[3], scale, rate};
    // Down the columns: the next tile then finds most of its keys and values in the first cache.
    for (int64_t tile = 0; tile < plan.tiles; ++tile) {
      DirectTile<K> t(plan, tile, queries, weights);
      for (t.y = top; t.y < bottom; t.y += t.rows) {
        t.rows = least(kGroup, bottom - t.y);
        if (t.rows == 1) direct_rows<1>(t, rows_of);
        else if (t.rows == 2) direct_rows<2>(t, rows_of);
        else direct_rows<3>(t, rows_of);
      }
    }
  }
}

}  // namespace acmix::ACMIX_ISA
#endif
