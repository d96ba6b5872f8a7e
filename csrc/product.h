// Stage I: a product of matrices for each image. A unit is a block of columns, which run over all images, and of rows.
#pragma once
#include "product_plan.h"

namespace acmix::ACMIX_ISA {

// A register tile of the product.
constexpr int64_t kTileRows = kRegisters == 32 ? 8 : 6, kTileVectors = kRegisters == 32 ? 3 : 2;
constexpr int64_t kDepth = kRegisters == 32 ? 192 : 256;  // of a tile: its two operands stay in the first cache
constexpr int64_t kBlockColumns = 48;                      // of a unit, at most: nobody waits long for the last one
constexpr int64_t kRowsAhead = 8;     // that are asked for before they are packed: each is on a page of its own
constexpr int64_t kMostWeights = 1 << 18;  // entries of a weight that stay in the second cache
constexpr int64_t kRowsTogether = 384, kBlocksTogether = 5;  // of a larger one, that are multiplied before the next ones
constexpr int64_t kPanels = 8;        // of a unit, when the weight is arranged

constexpr int64_t tile_columns() { return kTileVectors * Lanes<float>::count; }

constexpr int64_t kMostTiles = kBlockColumns / tile_columns();
static_assert(kBlockColumns % tile_columns() == 0 && kRowsTogether % kTileRows == 0, "blocks are made of whole tiles");

using TilePlan = ProductPlan<tile_columns(), kMostTiles, kTileRows>;
using TileColumns = ColumnsOf<tile_columns()>;

inline int64_t product_panels(const Product& p) { return (p.rows + kTileRows - 1) / kTileRows; }

// Entries of `panels`: a weight that is not transposed is read where it stands.
inline int64_t product_panels_size(const Product& p) { return p.transposed ? product_panels(p) * p.depth * kTileRows : 0; }

inline int64_t product_units(const Product& p) {
  return TilePlan(p).units();
}

inline int64_t panel_units(const Product& p) { return p.transposed ? (product_panels(p) + kPanels - 1) / kPanels : 0; }

// A transposed weight's panels, kPanels a unit: [depth][kTileRows] each, zeros below the last row.
inline void arrange_panels(const Product& p, int64_t first_unit, int64_t last_unit) {
  const int64_t size = p.depth * kTileRows, first = first_unit * kPanels, last = least(last_unit * kPanels, product_panels(p));
  if (last * kTileRows > p.rows) ::memset(static_cast<void*>(p.panels + (last - 1) * size), 0, size * sizeof(float));
  for (int64_t block = first; block < last; block += kPanels) {
    for (int64_t k = 0, part = 0, row = 0; k < p.depth; ++k) {
      const float* const from = p.parts[part] + row * p.part_columns;
      for (int64_t panel = block; panel < least(block + kPanels, last); ++panel) {
        float* const to = p.panels + panel * size + k * kTileRows;
        const int64_t rows = p.rows - panel * kTileRows;
        if (rows >= kTileRows) ::memcpy(to, from + panel * kTileRows, kTileRows * sizeof(float));
        else ::memcpy(to, from + panel * kTileRows, rows * sizeof(float));
      }
      if (++row == p.part_rows) ++part, row = 0;
    }
  }
}

// Columns of a tile that is cut, rows depth..: [rows][tile_columns], zeros behind the last column.
ACMIX_APART void pack_cut(const Product& p, const TileColumns& at, int64_t depth, int64_t rows, float* to) {
  for (int64_t j = 0, image = at.image, pixel = at.pixel, run; j < at.count; j += run, ++image, pixel = 0) {
    run = least(at.count - j, p.pixels - pixel);
    const float* from = p.x + image * p.x_image + depth * p.x_row + pixel;
    for (int64_t k = 0; k < rows; ++k, from += p.x_row) {
      for_each_vector(from, run, to + k * tile_columns() + j, [](Vector<float> read, Vector<float>) { return read; });
    }
  }
  for (int64_t k = 0; k < rows; ++k) {
    for (int64_t j = at.count; j < tile_columns(); ++j) to[k * tile_columns() + j] = 0;
  }
}

// Where each row of the weight begins, and for rows of a last tile that are none, the last one again: what they give is not
// written.
inline void place_rows(const Product& p, const float** to) {
  const int64_t all = product_panels(p) * kTileRows;
  for (int64_t part = 0, row = 0; row < p.rows; ++part) {
    for (int64_t i = 0; i < p.part_rows && row < p.rows; ++i) to[row++] = p.parts[part] + i * p.part_columns;
  }
  for (int64_t row = p.rows; row < all; ++row) to[row] = to[p.rows - 1];
}

// The columns of a tile: packed, [depth][tile_columns], or rows of the map, which are packed while they are multiplied.
struct PackedColumns {
  const float* at;

  template <int NV>
  ACMIX_INLINE void next(Vector<float> (&right)[NV]) {
    ACMIX_UNROLL
    for (int v = 0; v < NV; ++v) right[v] = load_once(at + v * Lanes<float>::count);
    at += tile_columns();
  }
};

struct MapColumns {
  const float* at;
  int64_t row;
  float* to;

  template <int NV>
  ACMIX_INLINE void next(Vector<float> (&right)[NV]) {
    constexpr int64_t lanes = Lanes<float>::count;
    ACMIX_UNROLL
    for (int v = 0; v < NV; ++v) {
      if (v * lanes % kLineEntries == 0) __builtin_prefetch(at + kRowsAhead * row + v * lanes);
      right[v] = load_once(at + v * lanes);
      store(to + v * lanes, right[v]);
    }
    at += row, to += tile_columns();
  }
};

// One register tile of NV vectors: sums over `depth` of the weight's entries times a row of columns. The weight's entries
// stand in a panel, or in rows that begin at `rows`.
template <bool PANEL, int NV, class C>
ACMIX_INLINE void multiply_tile(const float* panel, const float* const* rows, int64_t start, C columns, int64_t depth,
                                Vector<float> (&sums)[kTileRows][NV]) {
  const float* at[kTileRows];
  ACMIX_UNROLL
  for (int i = 0; i < kTileRows; ++i) {
    at[i] = PANEL ? panel + i : rows[i] + start;
    ACMIX_UNROLL
    for (int v = 0; v < NV; ++v) sums[i][v] = Vector<float>{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vector<float> right[NV];
    columns.next(right);
    ACMIX_UNROLL
    for (int i = 0; i < kTileRows; ++i) {
      const float entry = PANEL ? panel[k * kTileRows + i] : at[i][k];
      ACMIX_UNROLL
      for (int v = 0; v < NV; ++v) sums[i][v] += entry * right[v];
    }
  }
}

// Sums of a whole tile to their place, plus the bias or what earlier rows of the depth have given.
template <bool BEGINS>
ACMIX_INLINE void write_whole(const Product& p, int64_t row, float* to, const Vector<float> (&sums)[kTileRows][kTileVectors]) {
  constexpr int64_t lanes = Lanes<float>::count;
  ACMIX_UNROLL
  for (int i = 0; i < kTileRows; ++i, to += p.out_row) {
    const Vector<float> bias = splat(BEGINS && p.bias != nullptr ? p.bias[row + i] : 0.0f);
    ACMIX_UNROLL
    for (int v = 0; v < kTileVectors; ++v) {
      store(to + v * lanes, sums[i][v] + (BEGINS ? bias : load(to + v * lanes)));
    }
  }
}

// The same for a tile that is cut by the last row, the last column, or the border of two images.
ACMIX_APART void write_cut(const Product& p, int64_t row, const TileColumns& at, bool begins, const float* sums) {
  const int64_t rows = least(kTileRows, p.rows - row);
  for (int64_t j = 0, image = at.image, pixel = at.pixel, run; j < at.count; j += run, ++image, pixel = 0) {
    run = least(at.count - j, p.pixels - pixel);
    float* to = p.out + image * p.out_image + row * p.out_row + pixel;
    for (int64_t i = 0; i < rows; ++i, to += p.out_row) {
      const float* from = sums + i * tile_columns() + j;
      const float bias = p.bias != nullptr ? p.bias[row + i] : 0;
      if (begins) for_each_vector(from, run, to, [&](Vector<float> sum, Vector<float>) { return sum + bias; });
      else for_each_vector(from, run, to, [](Vector<float> sum, Vector<float> before) { return before + sum; });
    }
  }
}

template <int NV>
ACMIX_INLINE void write_tile(const Product& p, int64_t row, const TileColumns& at, bool begins,
                             const Vector<float> (&sums)[kTileRows][NV]) {
  if constexpr (NV == kTileVectors) {
    if (at.whole && row + kTileRows <= p.rows) {
      float* const to = p.out + row * p.out_row + at.to(p);
      return begins ? write_whole<true>(p, row, to, sums) : write_whole<false>(p, row, to, sums);
    }
  }
  float kept[kTileRows * tile_columns()];
  ACMIX_UNROLL
  for (int i = 0; i < kTileRows; ++i) {
    ACMIX_UNROLL
    for (int v = 0; v < NV; ++v) store(kept + i * tile_columns() + v * Lanes<float>::count, sums[i][v]);
  }
  write_cut(p, row, at, begins, kept);
}

// Whether it pays to ask for the memory that stores write to: on an Intel processor with AVX-512 it took time from the products.
inline bool asking_pays() {
#if defined(__x86_64__)
  return !__builtin_cpu_is("intel");
#else
  return true;
#endif
}

// The memory of a whole tile's sums, which are written after the products.
template <int NV>
ACMIX_INLINE void ask_for_outputs(const Product& p, int64_t row, const TileColumns& at) {
  if (!at.whole) return;
  const float* to = p.out + row * p.out_row + at.to(p);
  ACMIX_UNROLL
  for (int i = 0; i < kTileRows; ++i, to += p.out_row) {
    ACMIX_UNROLL
    for (int v = 0; v < NV; ++v) __builtin_prefetch(to + v * Lanes<float>::count, 1);
  }
}

// What a unit does with the rows start..start + depth of a tile's columns.
struct TileProduct {
  const Product& p;
  const float* const* rows;
  int64_t top, bottom, start, depth;
  float* packed;
  bool asks;

  // One tile of the weight's rows.
  template <bool PANEL, int NV, class C>
  ACMIX_INLINE void multiply_row(int64_t row, const TileColumns& at, C columns) const {
    Vector<float> sums[kTileRows][NV];
    if (asks) ask_for_outputs<NV>(p, row, at);
    multiply_tile<PANEL, NV>(p.panels + row * p.depth + start * kTileRows, rows + row, start, columns, depth, sums);
    write_tile(p, row, at, start == 0, sums);
  }

  template <bool PANEL, int NV>
  ACMIX_INLINE void multiply_rows(int64_t first, const TileColumns& at) const {
    for (int64_t row = first; row < bottom; row += kTileRows) multiply_row<PANEL, NV>(row, at, PackedColumns{packed});
  }

  // The first rows of the weight pack the columns, the others ask for those of the next tile.
  template <bool PANEL>
  ACMIX_INLINE void multiply_whole(const TileColumns& at) const {
    const float* const from = p.x + at.image * p.x_image + start * p.x_row + at.pixel;
    multiply_row<PANEL, kTileVectors>(top, at, MapColumns{from, p.x_row, packed});
    const bool asks = at.pixel + 2 * tile_columns() <= p.pixels;
    const int64_t share = asks ? depth * kTileRows / (bottom - top) + 1 : 0;
    const float* next = from + tile_columns();
    for (int64_t row = top + kTileRows, asked = 0; row < bottom; row += kTileRows) {
      for (const int64_t last = least(asked + share, depth); asked < last; ++asked, next += p.x_row) {
        for (int64_t x = 0; x < tile_columns(); x += kLineEntries) __builtin_prefetch(next + x, 0, 2);
      }
      multiply_row<PANEL, kTileVectors>(row, at, PackedColumns{packed});
    }
  }

  // A tile that one vector holds takes no more.
  template <bool PANEL>
  ACMIX_APART void multiply_columns(const TileColumns& at) const {
    constexpr int64_t lanes = Lanes<float>::count;
    if (at.whole) return multiply_whole<PANEL>(at);
    pack_cut(p, at, start, depth, packed);
    if (at.count <= lanes) return multiply_rows<PANEL, 1>(top, at);
    if constexpr (kTileVectors > 2) {
      if (at.count <= 2 * lanes) return multiply_rows<PANEL, 2>(top, at);
    }
    multiply_rows<PANEL, kTileVectors>(top, at);
  }
};

inline void multiply(const Product& p, int64_t first_unit, int64_t last_unit) {
  constexpr int64_t wide = tile_columns();
  const TilePlan plan(p);
  const bool asks = asking_pays();
  Scratch<float> scratch(Scratch<float>::size_of(least(kDepth, p.depth) * wide), Holds::anything);
  float* const packed = scratch.take(0);
  Scratch<const float*> places(p.transposed ? 0 : product_panels(p) * kTileRows);
  const float** const rows = places.take(0);
  if (!p.transposed) place_rows(p, rows);
  // Of a weight that the second cache does not hold, some rows at a time are multiplied with several blocks of columns.
  const bool large = p.rows * p.depth > kMostWeights;
  const int64_t most_rows = large ? kRowsTogether : p.rows, most_blocks = large ? kBlocksTogether : 1;
  const int64_t most_depth = evenly(p.depth, kDepth);
  for (int64_t unit = first_unit, next; unit < last_unit; unit = next) {
    // Units with the same columns are one: these are packed once.
    const int64_t block = unit / plan.row_blocks, first = unit % plan.row_blocks;
    const int64_t blocks = first == 0 ? least(most_blocks, (last_unit - unit) / plan.row_blocks) : 0;  // that are all there
    next = blocks > 0 ? unit + blocks * plan.row_blocks : least((block + 1) * plan.row_blocks, last_unit);
    const int64_t left = plan.first_tile(block), right = plan.first_tile(block + (blocks > 0 ? blocks : 1));
    const int64_t end = blocks > 0 ? p.rows : least((first + next - unit) * plan.block_rows, p.rows);
    for (int64_t top = first * plan.block_rows, bottom; top < end; top = bottom) {
      bottom = least(top + most_rows, end);
      for (int64_t start = 0, depth; start < p.depth; start += depth) {
        depth = least(most_depth, p.depth - start);
        const TileProduct product{p, rows, top, bottom, start, depth, packed, asks};
        for (int64_t t = left; t < right; ++t) {
          const TileColumns at(p, t * wide, plan.columns);
          if (p.transposed) product.multiply_columns<true>(at);
          else product.multiply_columns<false>(at);
        }
      }
    }
  }
}

}  // namespace acmix::ACMIX_ISA
