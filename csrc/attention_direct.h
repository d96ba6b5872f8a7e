// Window attention, forward, on dense rows of float32: keys and values are packed with zeros beyond the border, where their
// logits tell that they are none; those within count as often as reflection shows them, by the logarithm of that number.
#pragma once
#include "direct_plan.h"

#ifdef ACMIX_HAS_MASKS
namespace acmix::ACMIX_ISA {

// Products of the tile's rows R0..R1 of `left` with the window's columns FROM..TO of one packed row, from the tile's columns
// on, and what the border adds to them, to `lines`.
template <int R0, int R1, int FROM, int TO, int K, int S, bool FOLDED>
ACMIX_INLINE void direct_score(const DirectTile<K, S, FOLDED>& t, const TileBorder& border, const TileRows& left, const float* key,
                               int64_t channel, int64_t key_row, float* lines) {
  const DirectPlan<K, S>& plan = t.plan;
  const Vector<float> down = splat(border.down[border.step * key_row]);
  Vector<float> sums[R1 - R0][TO - FROM];
  ACMIX_UNROLL
  for (int r = R0; r < R1; ++r) {
    const Vector<float> row = border.rows[(t.y + r) * K + key_row - (t.y + r) * S + K / 2] + load(border.slopes + r * border.slope) * down;
    const float* const columns = border.columns + r * border.row;
    ACMIX_UNROLL
    for (int o = FROM; o < TO; ++o) sums[r - R0][o - FROM] = load(columns + o * kMaskLanes) + row;
  }
  const int64_t width = plan.call.width, step = left.row;
  const float* query = left.data + R0 * step;
  // Each key row asks for one line of the next tile: of one of its rows the first, or the last. Of a tile with fewer rows, or of
  // rows that are no S apart, some are lines beside it.
  const float* next = left.next.data + key_row % tile_group(K, S) * left.next.row + key_row / tile_group(K, S) % 2 * (S * kMaskLanes - 1);
  for (int64_t d = 0; d < width; ++d, key += channel, query += left.channel, next += left.next.channel) {
    __builtin_prefetch(next);
    Vector<float> queries[R1 - R0];
    ACMIX_UNROLL
    for (int r = 0; r < R1 - R0; ++r) queries[r] = load_once(query + r * step);
    const Sliding<K, S, FOLDED> keys(key, plan.phase);
    ACMIX_UNROLL
    for (int o = FROM; o < TO; ++o) {
      const Vector<float> of_key = keys[o];
      ACMIX_UNROLL
      for (int r = 0; r < R1 - R0; ++r) sums[r][o - FROM] += queries[r] * of_key;
    }
  }
  ACMIX_UNROLL
  for (int r = R0; r < R1; ++r) {
    float* to = lines + t.line(r, key_row);
    ACMIX_UNROLL
    for (int o = FROM; o < TO; ++o) store(to + o * kMaskLanes, sums[r - R0][o - FROM]);
  }
}

// Of all rows of the tile with their windows: [rows][K * K][lanes].
template <int ROWS, int K, int S, bool FOLDED>
ACMIX_APART void direct_scores(const DirectTile<K, S, FOLDED>& t, const TileBorder& border, const TileRows& left, const Rows& keys,
                               float* lines) {
  for_each_direct_row<ROWS>(t, [&](auto seeing, int64_t key) __attribute__((always_inline)) {
    constexpr int R0 = decltype(seeing)::R0, R1 = decltype(seeing)::R1;
    constexpr int fitting = (R1 - R0) * K < kRegisters - (R1 - R0) ? K : (K + 1) / 2;
    const float* const row = keys.data + key * keys.row + t.place();
    direct_score<R0, R1, 0, fitting>(t, border, left, row, keys.channel, key, lines);
    if constexpr (fitting < K) direct_score<R0, R1, fitting, K>(t, border, left, row, keys.channel, key, lines);
  });
}

// ND channels of the sums of `weights` times values, times `factors` of each row.
template <int ROWS, int ND, int K, int S, bool FOLDED>
ACMIX_APART void direct_gather(const DirectTile<K, S, FOLDED>& t, const float* weights, const Rows& values, const Vector<float>* factors,
                               const OutRows& out) {
  Vector<float> sums[ROWS][ND];
  ACMIX_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i) sums[r][i] = Vector<float>{};
  }
  for_each_direct_row<ROWS>(t, [&](auto seeing, int64_t key) __attribute__((always_inline)) {
    constexpr int R0 = decltype(seeing)::R0, R1 = decltype(seeing)::R1;
    const float* from = values.data + key * values.row + t.place();
    Sliding<K, S, FOLDED> channels[ND];
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i) channels[i] = Sliding<K, S, FOLDED>(from + i * values.channel, t.plan.phase);
    const float* lines[ROWS];
    ACMIX_UNROLL
    for (int r = R0; r < R1; ++r) lines[r] = weights + t.line(r, key);
    ACMIX_UNROLL
    for (int o = 0; o < K; ++o) {
      Vector<float> weight[ROWS];
      ACMIX_UNROLL
      for (int r = R0; r < R1; ++r) weight[r] = load_once(lines[r] + o * kMaskLanes);
      ACMIX_UNROLL
      for (int i = 0; i < ND; ++i) {
        const Vector<float> value = channels[i][o];
        ACMIX_UNROLL
        for (int r = R0; r < R1; ++r) sums[r][i] += weight[r] * value;
      }
    }
  });
  for (int64_t i = 0; i < ND; ++i) {  // the next tile's, which are written long after: else the stores would wait for their memory
    for (int64_t r = 0; r < ROWS; ++r) {
      const float* const to = out.data + r * out.row + i * out.channel + t.ahead(out.row);
      __builtin_prefetch(to, 1);
      __builtin_prefetch(to + kMaskLanes - 1, 1);
    }
  }
  ACMIX_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    ACMIX_UNROLL
    for (int i = 0; i < ND; ++i) {
      float* const to = out.data + r * out.row + i * out.channel;
      if constexpr (FOLDED) store_folded(t.own, to, to + t.plan.call.out.strides[1], sums[r][i] * factors[r]);
      else store_lanes(t.own, to, sums[r][i] * factors[r]);
    }
  }
}

// Four channels at a time, the rest one by one, row by row.
template <int ROWS, int K, int S, bool FOLDED>
ACMIX_INLINE void direct_gathers(const DirectTile<K, S, FOLDED>& t, const float* weights, Rows values, const Vector<float>* factors, OutRows out) {
  int64_t d = 0;
  for (; d + 4 <= t.plan.call.width; d += 4, values.data += 4 * values.channel, out.data += 4 * out.channel) {
    direct_gather<ROWS, 4>(t, weights, values, factors, out);
  }
  for (; d < t.plan.call.width; ++d, values.data += values.channel, out.data += out.channel) {
    DirectTile<K, S, FOLDED> row = t;
    for (int r = 0; r < ROWS; ++r, ++row.y) {
      direct_gather<1, 1>(row, weights + r * K * K * kMaskLanes, values, factors + r, out.from(r, 0));
    }
  }
}

// Where one head of one image is read and written.
struct ForwardRows {
  Rows queries, keys, values;
  OutRows out;
  float rate, factor;  // on the output; on the keys
};

// The tile's queries: where they stand, if whole vectors of them do, or a copy. Vectors of 64 bytes, most of which lie across
// two cache lines, are read too often for the former.
template <int K, int S, bool FOLDED>
ACMIX_INLINE TileRows left_rows(const DirectTile<K, S, FOLDED>& t, const ForwardRows& of, float* copy) {
  const Rows from(of.queries.data + S * (t.y * of.queries.row + t.tile * kMaskLanes), of.queries.channel, S * of.queries.row);
  const Rows next(from.data + S * t.columns_on + t.rows_on * from.row, from.channel, from.row);
  if constexpr (!kCuts && S == 1) {
    if (t.own.last >= kMaskLanes) return {from.data, from.channel, from.row, next};
  }
  const TileRows left{copy, kMaskLanes, t.plan.call.width * kMaskLanes, next};
  if constexpr (FOLDED) read_folded(t, of.queries, copy, left.channel, left.row);
  else read_direct<S>(t, of.queries, 1, copy, left.channel, left.row);
  return left;
}

template <int ROWS>
struct RowCount {
  static constexpr int value = ROWS;
};

// Calls body(number of rows, tile) for all tiles of some rows, or for those of two heads. Down the columns: the next tile then
// finds most of its keys and values in the first cache.
template <bool FOLDED = false, int K, int S, class F>
ACMIX_INLINE void for_each_tile(const DirectPlan<K, S>& plan, int64_t top, int64_t bottom, F body) {
  const int64_t last_tile = FOLDED ? plan.tiles : plan.tiles - (plan.folded ? 1 : 0);
  for (int64_t tile = FOLDED ? plan.tiles - 1 : 0; tile < last_tile; ++tile) {
    DirectTile<K, S, FOLDED> t(plan, tile);
    for (t.y = top; t.y < bottom; t.y += t.rows) {
      t.rows = rows_of_tile<K>(tile_group(K, S), bottom - t.y);
      if (FOLDED && t.rows == 3) t.rows = 2;  // seldom, and not worth its code
      const bool last = t.y + t.rows == bottom;
      t.rows_on = last ? top - t.y : t.rows, t.columns_on = last ? kMaskLanes : 0;
      if (t.rows == 1) body(RowCount<1>{}, t);
      if constexpr (!FOLDED) {
        if (t.rows == 3) body(RowCount<3>{}, t);
      }
      if constexpr (K == 7) {
        if (t.rows == 2) body(RowCount<2>{}, t);
        if constexpr (tile_group(K, S) == 4) {
          if (t.rows == 4) body(RowCount<4>{}, t);
        }
      }
    }
  }
}

// The border with what the position code adds: less, times `factor`, a query's products with the code of a key. `memory` is
// [ROWS][K + 1][lanes].
template <int ROWS>
ACMIX_APART TileBorder coded_border(const Attention& a, TileBorder border, const float* places, const TileRows& left, float factor,
                                    float* memory) {
  const int64_t lanes = kMaskLanes, row = (a.kernel + 1) * lanes;
  Vector<float> across[ROWS]{}, down[ROWS]{};
  const float* query = left.data;
  for (int64_t d = 0; d < a.width; ++d, query += left.channel) {
    const float by_column = -factor * a.code[2 * d], by_row = -factor * a.code[2 * d + 1];
    ACMIX_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      const Vector<float> own = load_once(query + r * left.row);
      across[r] += own * by_column, down[r] += own * by_row;
    }
  }
  for (int64_t o = 0; o < a.kernel; ++o) {
    const Vector<float> shown = load(border.columns + o * lanes), place = load(places + o * lanes);
    ACMIX_UNROLL
    for (int r = 0; r < ROWS; ++r) store(memory + r * row + o * lanes, shown + across[r] * place);
  }
  ACMIX_UNROLL
  for (int r = 0; r < ROWS; ++r) store(memory + (r + 1) * row - lanes, down[r]);
  border.columns = memory, border.slopes = memory + row - lanes, border.row = border.slope = row;
  border.down = a.down, border.step = 1;
  return border;
}

// Weights without their sums, and by what the products with values are multiplied.
template <int ROWS, int K, int S, bool FOLDED>
ACMIX_INLINE void direct_weights(const DirectTile<K, S, FOLDED>& t, const ForwardRows& of, float* queries, float* border, float* weights,
                                 float* factors) {
  const TileRows left = left_rows(t, of, queries);
  TileBorder all = t.plan.of_tile(t.plan.logits, t.tile);
  if (t.plan.call.code != nullptr) {
    all = coded_border<ROWS>(t.plan.call, all, t.plan.places + t.tile * K * kMaskLanes, left, of.factor, border);
  }
  direct_scores<ROWS>(t, all, left, of.keys, weights);
  for (int64_t r = 0; r < ROWS; ++r) {
    store(factors + r * kMaskLanes, of.rate / exponentials(weights + r * K * K * kMaskLanes, t.taps(r), kMaskLanes));
  }
}

// Memory for one tile: its queries and border, its weights, and by what the products with values are multiplied.
template <int K, int S>
struct TileMemory {
  static constexpr int64_t lanes = kMaskLanes, group = tile_group(K, S), weights_size = group * K * K * lanes, factors_size = group * lanes;
  float *queries, *border, *weights, *factors;

  static int64_t size_of(int64_t width, int64_t kept = 1) {
    using Memory = Scratch<float>;
    return Memory::size_of(group * width * lanes) + Memory::size_of(group * (K + 1) * lanes) + Memory::size_of(kept * weights_size) +
           Memory::size_of(kept * factors_size);
  }

  // The weights and factors of so many tiles are kept.
  TileMemory(Scratch<float>& scratch, int64_t width, int64_t kept = 1)
      : queries(scratch.take(group * width * lanes)), border(scratch.take(group * (K + 1) * lanes)),
        weights(scratch.take(kept * weights_size)), factors(scratch.take(kept * factors_size)) {}
};

template <int ROWS, int K, int S, bool FOLDED>
ACMIX_INLINE void direct_outputs(const DirectTile<K, S, FOLDED>& t, const ForwardRows& of, const float* weights, const float* factors) {
  Vector<float> of_rows[ROWS];
  ACMIX_UNROLL
  for (int r = 0; r < ROWS; ++r) of_rows[r] = load(factors + r * kMaskLanes);
  direct_gathers<ROWS>(t, weights, of.values, of_rows, of.out.from(t.y, t.tile * kMaskLanes));
}

// All tiles of some rows, one after the other.
template <bool FOLDED = false, int K, int S>
ACMIX_APART void attend_tiles(const DirectPlan<K, S>& plan, const ForwardRows& of, const TileMemory<K, S>& memory, int64_t top, int64_t bottom) {
  for_each_tile<FOLDED>(plan, top, bottom, [&](auto rows, const DirectTile<K, S, FOLDED>& t) __attribute__((always_inline)) {
    direct_weights<decltype(rows)::value>(t, of, memory.queries, memory.border, memory.weights, memory.factors);
    direct_outputs<decltype(rows)::value>(t, of, memory.weights, memory.factors);
  });
}

// At a stride there are many keys for few queries: unless heads are narrow, the weights of all tiles of a unit take less memory
// than its values, which then stand where its keys stood.
template <int K, int S>
void attention_forward_direct(const Attention& a, int64_t first_unit, int64_t last_unit) {
  using Tile = TileMemory<K, S>;
  const DirectPlan<K, S> plan(a);
  const float scale = static_cast<float>(a.scale * kLog2E), rate = rate_of<float>(a);
  const int64_t unit_rows = forward_rows(a), blocks = (a.bottom - a.top + unit_rows - 1) / unit_rows;
  const int64_t packed_rows = least((unit_rows - 1) * S + K, a.height), packed_size = packed_rows * plan.row + kMaskLanes;
  const int64_t kept = S == 1 ? 1 : plan.tiles * tiles_of_rows<K>(Tile::group, unit_rows);
  using Memory = Scratch<float>;
  Memory scratch(Tile::size_of(a.width, kept) + (S == 1 ? 2 : 1) * Memory::size_of(packed_size), Holds::anything);
  const Tile memory(scratch, a.width, kept);
  float* const packed_keys = scratch.take(packed_size) + kPackedFrom<K, S>;
  float* const packed_values = S == 1 ? scratch.take(packed_size) + kPackedFrom<K, S> : packed_keys;
  clear_borders(plan, packed_rows, packed_keys);
  if (S == 1) clear_borders(plan, packed_rows, packed_values);
  const Rows nothing(nullptr, 0, 0);
  const KeyCode none{nothing}, code{Rows(a.position, 0, 0)};  // in parts it is added to the logits
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const int64_t head = unit % a.heads, batch = unit / a.heads / blocks;
    const int64_t top = a.top + unit / a.heads % blocks * unit_rows, bottom = least(top + unit_rows, a.bottom);
    const int64_t first = plan.first_row(top), last = plan.last_row(bottom - 1) + 1;
    ForwardRows of{Rows(a.q, batch, head), nothing, nothing, OutRows(a.out, batch, head), rate, scale};
    const auto pack_values = [&] { of.values = pack_direct(plan, Rows(a.v, batch, head), none, 1, first, last, packed_values); };
    of.keys = pack_direct(plan, Rows(a.k, batch, head), code, scale, first, last, packed_keys);
    if constexpr (S == 1) {
      pack_values();
      attend_tiles(plan, of, memory, top, bottom);
    } else {
      int64_t tile = 0;
      for_each_tile(plan, top, bottom, [&](auto rows, const DirectTile<K, S>& t) __attribute__((always_inline)) {
        direct_weights<decltype(rows)::value>(t, of, memory.queries, memory.border, memory.weights + tile * Tile::weights_size,
                                              memory.factors + tile * Tile::factors_size);
        ++tile;
      });
      pack_values();
      tile = 0;
      for_each_tile(plan, top, bottom, [&](auto rows, const DirectTile<K, S>& t) __attribute__((always_inline)) {
        direct_outputs<decltype(rows)::value>(t, of, memory.weights + tile * Tile::weights_size, memory.factors + tile * Tile::factors_size);
        ++tile;
      });
    }
  }
}

}  // namespace acmix::ACMIX_ISA
#endif
