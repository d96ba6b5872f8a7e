// Window attention, forward, on dense rows of float32 that end with half a vector or less: two heads share the tiles there.
#pragma once
#include "attention_direct.h"

#ifdef ACMIX_HAS_FOLDS
namespace acmix::ACMIX_ISA {

inline int64_t folded_forward_units(const Attention& a) { return attention_forward_units(a) / 2; }

// Not where one unit would be left: two threads have one each without it.
inline bool folds(const Attention& a) {
  const int64_t left = a.out_columns % kMaskLanes;
  return a.kernel == 7 && a.stride == 1 && a.heads % 2 == 0 && left > 0 && left <= kHalf && attends_directly(a) &&
         folded_forward_units(a) > 1;
}

// What the window's columns show of a packed row of two heads, of which each has a half of both vectors.
template <int K>
struct Sliding<K, 1, true> {
  Vector<float> left, right;

  Sliding() = default;
  ACMIX_INLINE Sliding(const float* from, int64_t) : left(load_once(from)), right(load_once(from + kMaskLanes)) {}

  ACMIX_INLINE Vector<float> operator[](int o) const {
    static_assert(K == 7, "of the paper's window");
    if (o == 0) return left;
    if (o == 1) return folded_lanes_from<1>(left, right);
    if (o == 2) return folded_lanes_from<2>(left, right);
    if (o == 3) return folded_lanes_from<3>(left, right);
    if (o == 4) return folded_lanes_from<4>(left, right);
    return o == 5 ? folded_lanes_from<5>(left, right) : folded_lanes_from<6>(left, right);
  }
};

// A tile's queries of two heads.
template <int K>
ACMIX_APART void read_folded(const DirectTile<K, 1, true>& t, const Rows& from, float* to, int64_t channel, int64_t row) {
  const int64_t upper = t.plan.call.q.strides[1];
  for (int64_t d = 0; d < t.plan.call.width; ++d) {
    const float* line = from.data + t.y * from.row + d * from.channel + t.tile * kMaskLanes;
    for (int64_t r = 0; r < t.rows; ++r, line += from.row) store(to + r * row + d * channel, load_folded(t.own, line, line + upper));
  }
}

// Packed rows of the last tile: [rows][D][2][lanes], of which each head has a half of both vectors.
template <int K>
struct FoldedRows {
  const DirectPlan<K, 1>& plan;
  int64_t row;
  float* to;

  static int64_t row_of(int64_t width) { return round_up(2 * width * kMaskLanes, 32) + 16; }  // an odd number of cache lines

  FoldedRows(const DirectPlan<K, 1>& p, float* to_) : plan(p), row(row_of(p.call.width)), to(to_) {}

  // One head's half, of packed rows first..last.
  void take(const Rows& packed, int64_t half, int64_t first, int64_t last) const {
    for (int64_t y = first; y < last; ++y) {
      const float* from = packed.data + y * packed.row + (plan.tiles - 1) * kMaskLanes;
      float* line = to + (y - first) * row + half * (kMaskLanes / 2);
      for (int64_t d = 0; d < plan.call.width; ++d, from += packed.channel, line += 2 * kMaskLanes) {
        ::memcpy(line, from, kMaskLanes / 2 * sizeof(float));
        ::memcpy(line + kMaskLanes, from + kMaskLanes / 2, kMaskLanes / 2 * sizeof(float));
      }
    }
  }

  Rows rows(int64_t first) const { return {to - first * row, 2 * kMaskLanes, row}; }
};

// A unit is some output rows of two heads of one image.
template <int K>
void attention_forward_folded(const Attention& a, int64_t first_unit, int64_t last_unit) {
  DirectPlan<K, 1> plan(a);
  plan.fold();
  const float scale = static_cast<float>(a.scale * kLog2E), rate = rate_of<float>(a);
  const int64_t unit_rows = forward_rows(a), blocks = (a.bottom - a.top + unit_rows - 1) / unit_rows, pairs = a.heads / 2;
  const int64_t packed_rows = least(unit_rows - 1 + K, a.height), packed_size = packed_rows * plan.row + kMaskLanes;
  const int64_t folded_size = packed_rows * FoldedRows<K>::row_of(a.width);
  using Memory = Scratch<float>;
  Memory scratch(TileMemory<K, 1>::size_of(a.width) + 2 * Memory::size_of(packed_size) + 2 * Memory::size_of(folded_size), Holds::anything);
  const TileMemory<K, 1> memory(scratch, a.width);
  float* const packed_keys = scratch.take(packed_size) + kPackedFrom<K, 1>;
  float* const packed_values = scratch.take(packed_size) + kPackedFrom<K, 1>;
  const FoldedRows<K> folded_keys(plan, scratch.take(folded_size)), folded_values(plan, scratch.take(folded_size));
  clear_borders(plan, packed_rows, packed_keys);
  clear_borders(plan, packed_rows, packed_values);
  const Rows nothing(nullptr, 0, 0);
  const KeyCode none{nothing}, code{Rows(a.position, 0, 0)};  // in parts it is added to the logits
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const int64_t batch = unit / pairs / blocks, head = unit % pairs * 2;
    const int64_t top = a.top + unit / pairs % blocks * unit_rows, bottom = least(top + unit_rows, a.bottom);
    const int64_t first = plan.first_row(top), last = plan.last_row(bottom - 1) + 1;
    const auto rows_of = [&](int64_t of_head, const Rows& keys, const Rows& values) {
      return ForwardRows{Rows(a.q, batch, of_head), keys, values, OutRows(a.out, batch, of_head), rate, scale};
    };
    for (int64_t half = 0; half < 2; ++half) {
      const Rows keys = pack_direct(plan, Rows(a.k, batch, head + half), code, scale, first, last, packed_keys);
      const Rows values = pack_direct(plan, Rows(a.v, batch, head + half), none, 1, first, last, packed_values);
      folded_keys.take(keys, half, first, last);
      folded_values.take(values, half, first, last);
      const ForwardRows of = rows_of(head + half, keys, values);
      attend_tiles(plan, of, memory, top, bottom);
    }
    const ForwardRows of = rows_of(head, folded_keys.rows(first), folded_values.rows(first));
    attend_tiles<true>(plan, of, memory, top, bottom);
  }
}

}  // namespace acmix::ACMIX_ISA
#endif
