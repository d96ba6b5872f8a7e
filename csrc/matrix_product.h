// Stage I's product on the matrix unit of x86 (AMX), whose tiles are 16 rows by 32 entries of bfloat16 and give sums in float32. A
// float32 is a sum of three bfloat16, each the nearest to what the ones before leave over; of the nine products of two such sums
// six are taken, and what is left out is at most 2^-23 of a product, of either sign. The entries of a tile are summed by themselves,
// even ones and odd ones, and those of a few tiles before they are added to others, so that fewer roundings meet than in a row of
// float32. Subnormal numbers, parts and products count as zero; what is not finite, or rounds to 2^128 in bfloat16, gives NaN. A
// unit is a block of columns, which run over all images, and of rows.
#pragma once
#include <immintrin.h>

#include "product_plan.h"

namespace acmix::ACMIX_ISA {

constexpr int64_t kTileSide = 16, kTileDepth = 32;  // rows or columns, and entries of the depth, of a tile
constexpr int64_t kLineBytes = 64;                  // a row of a tile
constexpr int64_t kTileBytes = kTileSide * kLineBytes;
constexpr int64_t kParts = 3;
constexpr int64_t kPanelRows = 2 * kTileSide;  // that are multiplied with a tile of columns at a time
constexpr int64_t kWeightStep = 2 * kParts * kTileBytes, kColumnStep = kParts * kTileBytes;  // bytes of a tile's depth of both
constexpr int64_t kBlockTiles = 8;        // of columns, in a unit, at most
constexpr int64_t kColumnBytes = 3 << 17;  // of columns, which are multiplied with all rows while the second cache has them
constexpr int64_t kLargeBytes = 1 << 20;   // of a weight; with a larger one so many of columns
constexpr int64_t kManySteps = 16;         // of the depth for which columns are there at a time, at most
constexpr int64_t kFewSteps = 4;           // and for which the first cache has a panel's weight, and whose sums are added up apart
constexpr int64_t kFewestPixels = 128, kFewestProducts = 1 << 23;

using MatrixPlan = ProductPlan<kTileSide, kBlockTiles, kPanelRows>;
using TileColumns = ColumnsOf<kTileSide>;

inline int64_t depth_steps(const Product& p) { return (p.depth + kTileDepth - 1) / kTileDepth; }
inline int64_t weight_panels(const Product& p) { return (p.rows + kPanelRows - 1) / kPanelRows; }

// A small product does not pay for the weight's parts, and what fills tiles badly is multiplied with zeros. By one image alone: its
// bits do not depend on those that come with it.
inline bool pays_by_tiles(const Product& p) {
  const int64_t size = p.rows * p.depth;
  const int64_t padded = weight_panels(p) * kPanelRows * depth_steps(p) * kTileDepth;
  return p.rows > 2 * kPanelRows && p.pixels >= kFewestPixels && size * p.pixels >= kFewestProducts && padded <= size + size / 4;
}

// Entries of `panels`: for each 32 rows their tiles, [depth / 32][part][2], and 16 times their bias.
inline int64_t matrix_panels_size(const Product& p) {
  return weight_panels(p) * (depth_steps(p) * kWeightStep / int64_t{sizeof(float)} + kPanelRows * kTileSide) + kLineEntries;
}

inline char* panel_at(const Product& p, int64_t panel) {
  const uintptr_t first_line = (reinterpret_cast<uintptr_t>(p.panels) + kLineBytes - 1) / kLineBytes * kLineBytes;
  return reinterpret_cast<char*>(first_line) + panel * depth_steps(p) * kWeightStep;
}

inline float* biases_at(const Product& p, int64_t panel) {
  return reinterpret_cast<float*>(panel_at(p, weight_panels(p))) + panel * kPanelRows * kTileSide;
}

// Three parts of the numbers of two vectors, STEP bytes from each to the next: numbers of `first` and `second` in turn or, if
// not in PAIRS, those of `first` before the others. Rounded to nearest, so that what is left out has either sign.
template <bool PAIRS, int64_t STEP>
ACMIX_INLINE void split(Vector<float> first, Vector<float> second, char* to) {
  typedef uint32_t Bits __attribute__((vector_size(ACMIX_VECTOR_BYTES)));
  const __m512i words = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21,
                                         19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  Vector<float> rests[] = {first, second};
  ACMIX_UNROLL
  for (int part = 0; part < kParts; ++part, to += STEP) {
    Bits upper[2];  // of which the upper halves are the part
    ACMIX_UNROLL
    for (int i = 0; i < 2; ++i) {
      upper[i] = reinterpret_cast<Bits>(rests[i]);
      if (part + 1 == kParts) continue;
      upper[i] += 0x8000;
      rests[i] -= reinterpret_cast<Vector<float>>(upper[i] & 0xffff0000u);
    }
    const __m512i a = reinterpret_cast<__m512i>(upper[0]), b = reinterpret_cast<__m512i>(upper[1]);
    const __m512i half = reinterpret_cast<__m512i>(upper[0] >> 16);
    _mm512_store_si512(to, PAIRS ? _mm512_mask_blend_epi16(0xaaaaaaaau, half, b) : _mm512_permutex2var_epi16(a, words, b));
  }
}

// The weight's rows from one on, one after the other.
class WeightRows {
 public:
  WeightRows(const Product& p, int64_t row) : p_(p), part_(row / p.part_rows), row_(row % p.part_rows) {}

  const float* next() {
    const float* const at = p_.parts[part_] + row_ * p_.part_columns;
    if (++row_ == p_.part_rows) ++part_, row_ = 0;
    return at;
  }

 private:
  const Product& p_;
  int64_t part_, row_;
};

// A tile's rows in parts, zeros below the last one and behind the end of the depth; the last part may be less than a tile.
inline void arrange_tile_rows(const Product& p, int64_t top, char* to) {
  WeightRows weight(p, top);
  for (int64_t i = 0; i < kTileSide; ++i, to += kLineBytes) {
    const float* const row = top + i < p.rows ? weight.next() : nullptr;
    char* place = to;
    for (int64_t start = 0; start < p.depth; start += kTileDepth, place += kWeightStep) {
      Vector<float> halves[2];
      ACMIX_UNROLL
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t column = start + half * kTileSide, count = row == nullptr ? 0 : p.depth - column;
        halves[half] = count >= kTileSide ? load(row + column) : Vector<float>{};
        if (count > 0 && count < kTileSide) halves[half] = load_first(row + column, count);
      }
      split<false, 2 * kTileBytes>(halves[0], halves[1], place);
    }
  }
}

// The same of a transposed weight.
inline void arrange_tile_columns(const Product& p, int64_t left, char* to) {
  WeightRows weight(p, 0);
  const int64_t columns = least(kTileSide, p.rows - left);
  for (int64_t start = 0; start < p.depth; start += kTileDepth, to += kWeightStep) {
    Vector<float> squares[2][kTileSide];
    for (int64_t k = 0; k < kTileDepth; ++k) {
      Vector<float>& row = squares[k / kTileSide][k % kTileSide];
      row = Vector<float>{};
      if (start + k >= p.depth) continue;
      const float* const from = weight.next() + left;
      row = columns == kTileSide ? load(from) : load_first(from, columns);
    }
    for (Vector<float>* const square : squares) turn<kTileSide / 2>(square);
    for (int64_t i = 0; i < kTileSide; ++i) split<false, 2 * kTileBytes>(squares[0][i], squares[1][i], to + i * kLineBytes);
  }
}

// The weight in parts and the biases, 32 rows a unit.
inline void arrange_matrix_panels(const Product& p, int64_t first_unit, int64_t last_unit) {
  for (int64_t panel = first_unit; panel < last_unit; ++panel) {
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t top = panel * kPanelRows + half * kTileSide;
      char* const to = panel_at(p, panel) + half * kTileBytes;
      if (top >= p.rows) continue;
      if (p.transposed) arrange_tile_columns(p, top, to);
      else arrange_tile_rows(p, top, to);
    }
    float* const biases = biases_at(p, panel);
    for (int64_t i = 0; i < kPanelRows; ++i) {
      const int64_t row = panel * kPanelRows + i;
      store(biases + i * kTileSide, splat(p.bias != nullptr && row < p.rows ? p.bias[row] : 0.0f));
    }
  }
}

// A tile's columns that are cut, rows start.. of the depth, as a dense block with zeros around: [32][16].
ACMIX_APART void read_columns(const Product& p, const TileColumns& at, int64_t start, float* to) {
  const int64_t rows = least(kTileDepth, p.depth - start);
  ::memset(static_cast<void*>(to), 0, kTileDepth * kTileSide * sizeof(float));
  for (int64_t j = 0, image = at.image, pixel = at.pixel, run; j < at.count; j += run, ++image, pixel = 0) {
    run = least(at.count - j, p.pixels - pixel);
    const float* from = p.x + image * p.x_image + start * p.x_row + pixel;
    for (int64_t k = 0; k < rows; ++k, from += p.x_row) ::memcpy(to + k * kTileSide + j, from, run * sizeof(float));
  }
}

// Tiles left..right of columns in parts, so many steps of the depth from `begin` on: `packed` is [tiles][steps][part].
struct PackedTiles {
  int64_t columns, left, right, begin, steps;
  const char* packed;
};

// Two rows of the map at a time: so the processor sees itself what comes next.
inline void pack_columns(const Product& p, const PackedTiles& of, char* packed) {
  alignas(64) float block[kTileDepth * kTileSide];
  for (int64_t i = 0; i < of.steps * kTileDepth; i += 2) {
    const int64_t k = of.begin * kTileDepth + i;
    char* to = packed + i / kTileDepth * kColumnStep + i % kTileDepth / 2 * kLineBytes;
    for (int64_t t = of.left; t < of.right; ++t, to += of.steps * kColumnStep) {
      const TileColumns at(p, t * kTileSide, of.columns);
      if (at.whole) {
        const float* const from = p.x + at.image * p.x_image + k * p.x_row + at.pixel;
        const Vector<float> first = k < p.depth ? load(from) : Vector<float>{};
        split<true, kTileBytes>(first, k + 1 < p.depth ? load(from + p.x_row) : Vector<float>{}, to);
      } else if (i % kTileDepth == 0) {
        read_columns(p, at, k, block);
        for (int64_t row = 0; row < kTileDepth; row += 2) {
          const float* const two = block + row * kTileSide;
          split<true, kTileBytes>(load(two), load(two + kTileSide), to + row / 2 * kLineBytes);
        }
      }
    }
  }
}

// Compilers take an instruction that loads tiles for one that reads no memory.
ACMIX_INLINE void before_tiles() { asm volatile("" ::: "memory"); }

// Palette, first row, bytes of each tile's rows and numbers of its rows: four tiles of 16 rows of 64 bytes. There are eight, but
// each that is in use is one less for the processor to work ahead with: where another thread takes half of them, all eight are
// twice as slow as four.
struct alignas(64) TileConfiguration {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16};
};

// A thread's tiles, as long as it is there.
class Tiles {
 public:
  Tiles() {
    static constexpr TileConfiguration configuration;
    before_tiles();
    _tile_loadconfig(&configuration);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// Memory that is asked for beside the products, so many lines at each step: rows of some lines each.
struct Ahead {
  const char* at;
  int64_t lines, in_row, row_lines, to_next;

  // In so many steps.
  Ahead(const void* memory, int64_t rows, int64_t row_bytes, int64_t row_step, int64_t steps)
      : at(static_cast<const char*>(memory)), lines(0), in_row(0), row_lines((row_bytes + kLineBytes - 1) / kLineBytes),
        to_next(row_step - row_lines * kLineBytes) {
    if (steps > 0) lines = (rows * row_lines + steps - 1) / steps;
  }

  ACMIX_INLINE void ask() {
    for (int64_t line = 0; line < lines; ++line) {
      __builtin_prefetch(at, 0, 2);
      at += kLineBytes;
      if (++in_row == row_lines) at += to_next, in_row = 0;
    }
  }
};

// A tile of sums in memory, `row` bytes from row to row.
struct SumsAt {
  char* at;
  int64_t row;

  char* lower() const { return at + kTileSide * row; }
};

// 16 columns times 32 rows or, if not DOWN, 16: tiles 0 and 1 are sums, 2 the weight's, 3 the columns'. Added to `bias`, if there is
// one.
template <bool DOWN>
ACMIX_APART void multiply_tiles(const char* weight, const char* columns, int64_t steps, const char* bias, const SumsAt& to, Ahead& ahead) {
  constexpr int64_t lower = kTileBytes;
  before_tiles();
  if (bias != nullptr) {
    _tile_loadd(0, bias, kLineBytes);
    if constexpr (DOWN) _tile_loadd(1, bias + lower, kLineBytes);
  } else {
    _tile_zero(0);
    if constexpr (DOWN) _tile_zero(1);
  }
  const auto upper_weight = [&](int64_t part) { _tile_loadd(2, weight + part * 2 * kTileBytes, kLineBytes); };
  const auto lower_weight = [&](int64_t part) { _tile_loadd(2, weight + part * 2 * kTileBytes + lower, kLineBytes); };
  const auto column = [&](int64_t part) { _tile_loadd(3, columns + part * kTileBytes, kLineBytes); };
  const auto add_upper = [] { _tile_dpbf16ps(0, 2, 3); };
  const auto add_lower = [] { _tile_dpbf16ps(1, 2, 3); };
  for (int64_t k = 0; k < steps; ++k, weight += kWeightStep, columns += kColumnStep) {
    // The smallest products first; as little as possible is loaded for each.
    column(0), upper_weight(2), add_upper();
    if constexpr (DOWN) {
      lower_weight(2), add_lower();
      lower_weight(1), add_lower();
      upper_weight(1), add_upper();
      column(1), add_upper();
      upper_weight(0), add_upper();
      lower_weight(1), add_lower();
      lower_weight(0), add_lower();
      column(2), add_lower();
      upper_weight(0), add_upper();
      column(0), add_upper();
      lower_weight(0), add_lower();
    } else {
      upper_weight(1), add_upper();
      column(1), add_upper();
      upper_weight(0), add_upper();
      column(2), add_upper();
      column(0), add_upper();
    }
    ahead.ask();
  }
  _tile_stored(0, to.at, to.row);
  if constexpr (DOWN) _tile_stored(1, to.lower(), to.row);
}

// A tile's sums, [32][16], to the output or, if it `reads`, from it, as far as it has such rows and columns.
ACMIX_APART void copy_sums(const Product& p, int64_t top, const TileColumns& at, bool reads, float* sums) {
  const int64_t rows = least(kPanelRows, p.rows - top);
  for (int64_t j = 0, image = at.image, pixel = at.pixel, run; j < at.count; j += run, ++image, pixel = 0) {
    run = least(at.count - j, p.pixels - pixel);
    float* there = p.out + image * p.out_image + top * p.out_row + pixel;
    for (int64_t i = 0; i < rows; ++i, there += p.out_row) {
      float* const own = sums + i * kTileSide + j;
      ::memcpy(reads ? own : there, reads ? there : own, run * sizeof(float));
    }
  }
}

// Rows of sums, [rows][16], of some more steps to those of the steps before.
inline void add_sums(const float* more, int64_t rows, const SumsAt& before, const SumsAt& to) {
  for (int64_t i = 0; i < rows; ++i) {
    const float* const there = reinterpret_cast<const float*>(before.at + i * before.row);
    store(reinterpret_cast<float*>(to.at + i * to.row), load(there) + load(more + i * kTileSide));
  }
}

// 32 rows of the weight, from `top` on, times tiles of columns, a few steps of the depth at a time. In between `sums`,
// [tiles][32][16], has what there is.
inline void multiply_panel(const Product& p, const PackedTiles& of, int64_t top, float* sums, Ahead& ahead) {
  alignas(64) float more[kPanelRows * kTileSide];
  const int64_t panel = top / kPanelRows, few = evenly(of.steps, kFewSteps);
  const bool down = top + kTileSide < p.rows;
  const int64_t rows = down ? kPanelRows : kTileSide;
  const auto lines = [](float* memory) { return SumsAt{reinterpret_cast<char*>(memory), kLineBytes}; };
  for (int64_t k = 0; k < of.steps; k += few) {
    const int64_t steps = least(few, of.steps - k);
    const bool begins = of.begin == 0 && k == 0, ends = k + steps == of.steps;
    const char* const weight = panel_at(p, panel) + (of.begin + k) * kWeightStep;
    const char* const bias = begins ? reinterpret_cast<const char*>(biases_at(p, panel)) : nullptr;
    for (int64_t t = of.left; t < of.right; ++t) {
      const TileColumns at(p, t * kTileSide, of.columns);
      float* const own = sums + (t - of.left) * kPanelRows * kTileSide;
      const SumsAt out{reinterpret_cast<char*>(p.out + top * p.out_row + at.to(p)), p.out_row * int64_t{sizeof(float)}};
      const bool whole = at.whole && top + rows <= p.rows;
      const SumsAt to = ends && whole ? out : lines(own), here = begins ? to : lines(more);
      const char* const columns = of.packed + ((t - of.left) * of.steps + k) * kColumnStep;
      if (down) multiply_tiles<true>(weight, columns, steps, bias, here, ahead);
      else multiply_tiles<false>(weight, columns, steps, bias, here, ahead);
      if (!begins) {
        if (k == 0 && !whole) copy_sums(p, top, at, true, own);
        add_sums(more, rows, k == 0 && whole ? out : lines(own), to);
      }
      if (ends && !whole) copy_sums(p, top, at, false, own);
    }
  }
}

// Rows top..bottom of the weight times tiles of columns. What is asked for meanwhile: the next rows of a large weight, or of a
// small one the columns that come next.
inline void multiply_panels(const Product& p, const PackedTiles& of, int64_t top, int64_t bottom, bool large, float* sums) {
  const int64_t count = of.right - of.left, panels = (bottom - top + kPanelRows - 1) / kPanelRows;
  const TileColumns next(p, of.right * kTileSide, of.columns);
  const int64_t there = least(count * kTileSide, p.pixels - next.pixel);
  const int64_t depth = least(of.steps * kTileDepth, p.depth - of.begin * kTileDepth);
  const float* const x = p.x + next.image * p.x_image + of.begin * kTileDepth * p.x_row + next.pixel;
  const int64_t floats = sizeof(float), rows = large || next.count <= 0 ? 0 : depth;
  Ahead columns(x, rows, there * floats, p.x_row * floats, panels * count * of.steps);
  for (int64_t row = top; row < bottom; row += kPanelRows) {
    const char* const weight = panel_at(p, row / kPanelRows + 1) + of.begin * kWeightStep;
    Ahead of_weight(weight, large ? 1 : 0, of.steps * kWeightStep, 0, count * of.steps);
    multiply_panel(p, of, row, sums, large ? of_weight : columns);
  }
}

inline void multiply_by_matrix_unit(const Product& p, int64_t first_unit, int64_t last_unit) {
  const MatrixPlan plan(p);
  const int64_t all_steps = depth_steps(p), many_steps = evenly(all_steps, kManySteps);
  const int64_t block_bytes = kBlockTiles * many_steps * kColumnStep;
  const bool large = weight_panels(p) * all_steps * kWeightStep > kLargeBytes;
  const int64_t whole_blocks = (last_unit - first_unit) / plan.row_blocks;
  const int64_t together = whole_blocks == 0 ? 1 : evenly(whole_blocks, (large ? kLargeBytes : kColumnBytes) / block_bytes);
  const int64_t packed_size = together * block_bytes / int64_t{sizeof(float)};
  const int64_t sums_size = together * kBlockTiles * kPanelRows * kTileSide;
  Scratch<float> scratch(Scratch<float>::size_of(packed_size) + Scratch<float>::size_of(sums_size), Holds::anything);
  char* const packed = reinterpret_cast<char*>(scratch.take(packed_size));
  float* const sums = scratch.take(sums_size);
  const Tiles tiles;
  for (int64_t unit = first_unit, next; unit < last_unit; unit = next) {
    // Units with the same columns are one, and several blocks of columns with all rows.
    const int64_t block = unit / plan.row_blocks, first = unit % plan.row_blocks;
    const int64_t blocks = first == 0 ? least(together, (last_unit - unit) / plan.row_blocks) : 0;  // that are all there
    next = blocks > 0 ? unit + blocks * plan.row_blocks : least((block + 1) * plan.row_blocks, last_unit);
    const int64_t left = plan.first_tile(block), right = plan.first_tile(block + (blocks > 0 ? blocks : 1));
    const int64_t top = first * plan.block_rows;
    const int64_t bottom = blocks > 0 ? p.rows : least((first + next - unit) * plan.block_rows, p.rows);
    for (int64_t begin = 0; begin < all_steps; begin += many_steps) {
      const PackedTiles of{plan.columns, left, right, begin, least(many_steps, all_steps - begin), packed};
      pack_columns(p, of, packed);
      multiply_panels(p, of, top, bottom, large, sums);
    }
  }
}

}  // namespace acmix::ACMIX_ISA
