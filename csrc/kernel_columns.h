// The three columns of a 3 x 3 kernel on rows of float32 that lie in memory without a border: zeros are masked lanes.
#pragma once
#include "group_convolution.h"
#include "masks.h"

#ifdef ACMIX_HAS_MASKS
namespace acmix::ACMIX_ISA {

// A tile of output rows and one vector of columns.
struct DirectPlace {
  static constexpr int parts = kCuts ? 3 : 4;
  Mask masks[parts], own;  // lanes of each part of what is read that are in the map; lanes that are outputs
  bool whole, top, bottom;  // whether all lanes are in the map; whether there is none above its first row, below its last row

  DirectPlace(const GroupConvolution& c, int64_t x) : own(lanes_between(0, c.out_columns - x)), whole(true), top(false), bottom(false) {
    const int64_t first = x * c.stride - 1;
    for (int i = 0; i < parts; ++i) {
      const int64_t from = first + step(i, c.stride);
      masks[i] = lanes_between(-from, c.columns - from);
      whole = whole && from >= 0 && from + kMaskLanes <= c.columns;
    }
  }

  // Where a part begins, from one column before the tile on.
  static constexpr int64_t step(int part, int64_t stride) {
    if (kCuts) return stride == 1 ? (part == 1 ? 2 : part * kMaskLanes) : part * kMaskLanes;
    return stride == 1 ? part : part / 2 * 2 + part % 2 * kMaskLanes;
  }
};

// The columns of a kernel on a row, from one column before the tile on; WHOLE: where all lanes are in the map. At a stride of
// two lanes are in picked order.
template <int S, bool WHOLE>
struct KernelColumns {
  const DirectPlace& at;
  const float* from;

  template <int PART>
  ACMIX_INLINE Vector<float> part() const {
    const float* const start = from + DirectPlace::step(PART, S);
    if constexpr (WHOLE) return load_once(start);
    else return load_lanes(at.masks[PART], start);
  }

  template <int KX>
  ACMIX_INLINE Vector<float> column() const {
    if constexpr (S == 1) return part<KX>();
    else if constexpr (KX == 1) return picked<1>(part<0>(), part<1>());
    else return picked<0>(part<KX>(), part<KX + 1>());
  }
};

template <int KX>
struct KernelColumn {
  static constexpr int value = KX;
};

// All of them at once. Vectors of 64 bytes across two cache lines take long to read: as few as can be are, and the others
// put together from them.
template <int S, bool WHOLE>
struct Columns {
  Vector<float> taps[3];

  Columns() = default;
  ACMIX_INLINE Columns(const DirectPlace& at, const float* from) {
#if defined(__AVX512F__)
    if constexpr (S == 1) {
      taps[0] = load_lanes(at.masks[0], from);
      taps[2] = load_lanes(at.masks[1], from + 2);
      taps[1] = between(taps[0], taps[2]);
    } else {
      const Vector<float> left = load_lanes(at.masks[0], from), right = load_lanes(at.masks[1], from + kMaskLanes);
      taps[0] = every_second<0>(left, right);
      taps[1] = every_second<1>(left, right);
      taps[2] = lanes_from<1>(taps[0], load_lanes(at.masks[2] & 1, from + 2 * kMaskLanes));
    }
#else
    const KernelColumns<S, WHOLE> columns{at, from};
    taps[0] = columns.template column<0>();
    taps[1] = columns.template column<1>();
    taps[2] = columns.template column<2>();
#endif
  }
};

// Calls body(kernel column, what it shows to rows FROM..TO of a tile). With few registers a column at a time.
template <int FROM, int TO, int S, bool WHOLE, class F>
ACMIX_INLINE void for_each_column(const DirectPlace& at, const float* from, int64_t row, F body) {
  if constexpr (kCuts) {
    Columns<S, WHOLE> columns[TO];
    ACMIX_UNROLL
    for (int r = FROM; r < TO; ++r) columns[r] = Columns<S, WHOLE>(at, from + r * row);
    ACMIX_UNROLL
    for (int kx = 0; kx < 3; ++kx) {
      Vector<float> taps[TO];
      ACMIX_UNROLL
      for (int r = FROM; r < TO; ++r) taps[r] = columns[r].taps[kx];
      body(kx, taps);
    }
  } else {
    Vector<float> taps[TO];
    const auto each = [&](auto column) __attribute__((always_inline)) {
      constexpr int KX = decltype(column)::value;
      ACMIX_UNROLL
      for (int r = FROM; r < TO; ++r) taps[r] = KernelColumns<S, WHOLE>{at, from + r * row}.template column<KX>();
      body(KX, taps);
    };
    each(KernelColumn<0>{});
    each(KernelColumn<1>{});
    each(KernelColumn<2>{});
  }
}

}  // namespace acmix::ACMIX_ISA
#endif
