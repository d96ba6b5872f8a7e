// The gradient of stage I's weight: products of the rows of two maps, summed over pixels and images. The right map is turned
// first, pixels by rows, so that the sums of several right rows stand in one vector. A unit is some left rows with a tile of
// right ones, over the whole batch, so that the sums always run in one order.
#pragma once
#include "problem.h"
#include "simd.h"

namespace acmix::ACMIX_ISA {

// A register tile: left rows, vectors of right rows.
constexpr int kLeftRows = 6, kRightVectors = kRegisters == 32 ? 4 : 2;
constexpr int64_t kUnitLeft = 96;     // left rows of a unit, at most
constexpr int64_t kUnits = 8;         // fewer tiles of right rows than that are cut by left rows too
constexpr int64_t kStepPixels = 112;  // at most: a tile's turned rows stay in the first cache
constexpr int64_t kSteps = 16;        // that are added up before they are added to the output: three levels of sums
constexpr int64_t kTurnedPixels = 256;  // of a unit that turns right rows

constexpr int64_t right_columns() { return kRightVectors * Lanes<float>::count; }

constexpr int64_t kLine = right_columns() < 16 ? right_columns() : 16;  // entries of a cache line

inline int64_t right_tiles(const RowProducts& p) { return (p.right_rows + right_columns() - 1) / right_columns(); }

// Entries of `turned`.
inline int64_t turned_size(const RowProducts& p) { return right_tiles(p) * p.images * p.pixels * right_columns(); }

// How the left rows are cut, by the shape alone.
inline int64_t unit_rows(const RowProducts& p) {
  const int64_t wanted = (kUnits + right_tiles(p) - 1) / right_tiles(p), needed = (p.left_rows + kUnitLeft - 1) / kUnitLeft;
  const int64_t blocks = wanted > needed ? wanted : needed;
  return round_up((p.left_rows + blocks - 1) / blocks, kLeftRows);
}

inline int64_t row_product_units(const RowProducts& p) {
  return (p.left_rows + unit_rows(p) - 1) / unit_rows(p) * right_tiles(p);
}

// Several whole images, or equal parts of one.
struct PixelSteps {
  int64_t images, pixels;

  explicit PixelSteps(const RowProducts& p) : images(1), pixels(p.pixels) {
    if (p.pixels <= kStepPixels) {
      images = kStepPixels / p.pixels;
    } else {
      const int64_t parts = (p.pixels + kStepPixels - 1) / kStepPixels;
      pixels = (p.pixels + parts - 1) / parts;
    }
  }
};

// Pixels first..first + count of images image..image + images.
struct PixelStep {
  int64_t image, images, first, count;
};

inline int64_t turned_blocks(const RowProducts& p) { return (p.pixels + kTurnedPixels - 1) / kTurnedPixels; }

inline int64_t turn_units(const RowProducts& p) { return p.images * right_tiles(p) * turned_blocks(p); }

// The turned tiles [tiles][images][pixels][right_columns], zeros behind the last right row; a unit is some pixels of one image
// of one tile.
inline void turn_rows(const RowProducts& p, int64_t first_unit, int64_t last_unit) {
  constexpr int64_t lanes = Lanes<float>::count, wide = right_columns();
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const int64_t plane = unit / turned_blocks(p), first = unit % turned_blocks(p) * kTurnedPixels;
    const int64_t row = plane / p.images * wide, rows = least(wide, p.right_rows - row);
    const float* const from = p.right + plane % p.images * p.right_image + row * p.row;
    float* const to = p.turned + plane * p.pixels * wide;
    for (int64_t j = 0; j < wide; j += lanes) {
      for (int64_t x = first; x < least(first + kTurnedPixels, p.pixels); x += lanes) {
        const int64_t count = least(lanes, p.pixels - x);
        Vector<float> block[lanes];
        ACMIX_UNROLL
        for (int64_t i = 0; i < lanes; ++i) {
          const float* const line = from + (j + i) * p.row + x;
          if (j + i >= rows) block[i] = Vector<float>{};
          else block[i] = count == lanes ? load(line) : load_first(line, count);
        }
        turn<lanes / 2>(block);
        if (count == lanes) {
          ACMIX_UNROLL
          for (int64_t i = 0; i < lanes; ++i) store(to + (x + i) * wide + j, block[i]);
        } else {
          for (int64_t i = 0; i < count; ++i) store(to + (x + i) * wide + j, block[i]);
        }
      }
    }
  }
}

// What a tile of left rows gives in one step, to `to` [kLeftRows][right_columns]. Rows that are none repeat the last one. Every
// tile asks for the next left rows, and for a part of the next step's right rows.
ACMIX_APART void multiply_pixels(const RowProducts& p, const PixelStep& step, int64_t row, int64_t tile, int64_t ahead, bool begins,
                                 float* to) {
  constexpr int64_t lanes = Lanes<float>::count, wide = right_columns();
  const float *left[kLeftRows], *right = p.turned + ((tile * p.images + step.image) * p.pixels + step.first) * wide;
  const float* next = right + step.images * step.count * (wide + ahead * kLine);
  Vector<float> sums[kLeftRows][kRightVectors];
  ACMIX_UNROLL
  for (int i = 0; i < kLeftRows; ++i) {
    left[i] = p.left + step.image * p.left_image + least(row + i, p.left_rows - 1) * p.row + step.first;
    ACMIX_UNROLL
    for (int v = 0; v < kRightVectors; ++v) sums[i][v] = Vector<float>{};
  }
  for (int64_t image = 0; image < step.images; ++image) {
    for (int64_t begin = 0, end; begin < step.count; begin = end) {
      end = least(begin + kLine, step.count);
      ACMIX_UNROLL
      for (int i = 0; i < kLeftRows; ++i) __builtin_prefetch(left[i] + kLeftRows * p.row + begin);
      for (int64_t x = begin; x < end; ++x, right += wide, next += kLine) {
        __builtin_prefetch(next, 0, 3);
        Vector<float> of_right[kRightVectors];
        ACMIX_UNROLL
        for (int v = 0; v < kRightVectors; ++v) of_right[v] = load_once(right + v * lanes);
        ACMIX_UNROLL
        for (int i = 0; i < kLeftRows; ++i) {
          const float entry = left[i][x];
          ACMIX_UNROLL
          for (int v = 0; v < kRightVectors; ++v) sums[i][v] += entry * of_right[v];
        }
      }
    }
    ACMIX_UNROLL
    for (int i = 0; i < kLeftRows; ++i) left[i] += p.left_image;
  }
  ACMIX_UNROLL
  for (int i = 0; i < kLeftRows; ++i) {
    ACMIX_UNROLL
    for (int v = 0; v < kRightVectors; ++v, to += lanes) store(to, begins ? sums[i][v] : load(to) + sums[i][v]);
  }
}

// The sums of some steps, [rows][right_columns], to the output.
inline void write_sums(const RowProducts& p, int64_t top, int64_t bottom, int64_t tile, bool begins, const float* sums) {
  const int64_t column = tile * right_columns(), columns = least(right_columns(), p.right_rows - column);
  for (int64_t row = top; row < bottom; ++row, sums += right_columns()) {
    float* const to = p.parts[row / p.part_rows] + row % p.part_rows * p.right_rows + column;
    if (begins) for_each_vector(sums, columns, to, [](Vector<float> sum, Vector<float>) { return sum; });
    else for_each_vector(sums, columns, to, [](Vector<float> sum, Vector<float> before) { return before + sum; });
  }
}

// Adds one step of a tile's left rows to `sums`, a number for each lane of each: in double, as they run over the whole batch.
ACMIX_APART void sum_pixels(const RowProducts& p, const PixelStep& step, int64_t row, double* sums) {
  constexpr int64_t lanes = Lanes<float>::count;
  for (int64_t i = row; i < least(row + kLeftRows, p.left_rows); ++i, sums += lanes) {
    Vector<float> sum{};
    for (int64_t image = step.image; image < step.image + step.images; ++image) {
      const float* const from = p.left + image * p.left_image + i * p.row + step.first;
      int64_t x = 0;
      for (; x + lanes <= step.count; x += lanes) sum += load(from + x);
      if (x < step.count) sum += load_first(from + x, step.count - x);
    }
    ACMIX_UNROLL
    for (int64_t lane = 0; lane < lanes; ++lane) sums[lane] += static_cast<double>(sum[lane]);
  }
}

inline void multiply_rows_by_rows(const RowProducts& p, int64_t first_unit, int64_t last_unit) {
  constexpr int64_t lanes = Lanes<float>::count, wide = right_columns();
  const PixelSteps steps(p);
  const int64_t rows = unit_rows(p), blocks = (p.left_rows + rows - 1) / rows;
  Scratch<float> scratch(Scratch<float>::size_of(rows * wide), Holds::anything);
  float* const products = scratch.take(rows * wide);
  double sums[kUnitLeft * lanes];
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const int64_t tile = unit / blocks, top = unit % blocks * rows, bottom = least(top + rows, p.left_rows);
    const bool sums_too = tile == 0 && p.sums != nullptr;
    if (sums_too) ::memset(static_cast<void*>(sums), 0, sizeof(sums));
    int64_t number = 0;
    for (int64_t image = 0; image < p.images; image += steps.images) {
      for (int64_t first = 0; first < p.pixels; first += steps.pixels, ++number) {
        const PixelStep step{image, least(steps.images, p.images - image), first, least(steps.pixels, p.pixels - first)};
        for (int64_t row = top; row < bottom; row += kLeftRows) {
          const int64_t ahead = (row - top) / kLeftRows % (wide / kLine);
          multiply_pixels(p, step, row, tile, ahead, number % kSteps == 0, products + (row - top) * wide);
          if (sums_too) sum_pixels(p, step, row, sums + (row - top) * lanes);
        }
        const bool last = image + step.images == p.images && first + step.count == p.pixels;
        if (number % kSteps == kSteps - 1 || last) write_sums(p, top, bottom, tile, number < kSteps && !p.adds, products);
      }
    }
    if (!sums_too) continue;
    for (int64_t row = top; row < bottom; ++row) {
      double total = p.adds ? p.sums[row] : 0.0;
      for (int64_t lane = 0; lane < lanes; ++lane) total += sums[(row - top) * lanes + lane];
      p.sums[row] = static_cast<float>(total);
    }
  }
}

}  // namespace acmix::ACMIX_ISA
