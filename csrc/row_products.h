// The gradient of stage I's weight: products of the rows of two maps, summed over pixels and images. A unit is some rows of
// one with some rows of the other, over the whole batch, so that the sums always run in one order.
#pragma once
#include "problem.h"
#include "simd.h"

namespace acmix::ACMIX_ISA {

// A register tile: left rows, right rows.
constexpr int kLeftRows = kRegisters == 32 ? 6 : 4, kRightRows = kRegisters == 32 ? 4 : 3;
constexpr int64_t kUnitLeft = 24, kUnitRight = 128;  // rows of a unit, at most
constexpr int64_t kUnitPixels = kRegisters == 32 ? 1056 : 784;  // of a step: a tile stays in the first cache, a unit in the second
static_assert(kUnitLeft % kLeftRows == 0, "units are made of whole tiles");

// Several whole images, or equal parts of one.
struct PixelSteps {
  int64_t images, pixels;

  explicit PixelSteps(const RowProducts& p) : images(1), pixels(p.pixels) {
    if (p.pixels <= kUnitPixels) {
      images = kUnitPixels / p.pixels;
    } else {
      const int64_t parts = (p.pixels + kUnitPixels - 1) / kUnitPixels;
      pixels = round_up((p.pixels + parts - 1) / parts, Lanes<float>::count);
    }
  }
};

// Pixels first..first + count of images image..image + images.
struct PixelStep {
  int64_t image, images, first, count;
};

template <class F>
ACMIX_INLINE void add_products(F read, const float* const* left, const float* const* right, int64_t at,
                               Vector<float> (&sums)[kLeftRows * kRightRows]) {
  Vector<float> of_right[kRightRows];
  ACMIX_UNROLL
  for (int j = 0; j < kRightRows; ++j) of_right[j] = read(right[j] + at);
  ACMIX_UNROLL
  for (int i = 0; i < kLeftRows; ++i) {
    const Vector<float> of_left = read(left[i] + at);
    ACMIX_UNROLL
    for (int j = 0; j < kRightRows; ++j) sums[i * kRightRows + j] += of_left * of_right[j];
  }
}

// One tile from rows `row` and `column` on; rows that are none repeat the last one, and what they give is not written.
ACMIX_APART void multiply_pixels(const RowProducts& p, const PixelStep& step, int64_t row, int64_t column, bool begins) {
  constexpr int64_t lanes = Lanes<float>::count, rounded = (kLeftRows * kRightRows + lanes - 1) / lanes * lanes;
  const float *left[kLeftRows], *right[kRightRows];
  ACMIX_UNROLL
  for (int i = 0; i < kLeftRows; ++i) left[i] = p.left + step.image * p.left_image + least(row + i, p.left_rows - 1) * p.pixels + step.first;
  ACMIX_UNROLL
  for (int j = 0; j < kRightRows; ++j) {
    right[j] = p.right + step.image * p.right_image + least(column + j, p.right_rows - 1) * p.pixels + step.first;
  }
  Vector<float> sums[kLeftRows * kRightRows]{};
  for (int64_t image = 0; image < step.images; ++image) {
    int64_t x = 0;
    for (; x + lanes <= step.count; x += lanes) {
      add_products([](const float* from) { return load_once(from); }, left, right, x, sums);
    }
    const int64_t rest = step.count - x;
    if (rest) add_products([&](const float* from) { return load_first(from, rest); }, left, right, x, sums);
    ACMIX_UNROLL
    for (int i = 0; i < kLeftRows; ++i) left[i] += p.left_image;
    ACMIX_UNROLL
    for (int j = 0; j < kRightRows; ++j) right[j] += p.right_image;
  }
  float totals[rounded];
  sums_of_lanes<kLeftRows * kRightRows>(sums, totals);
  const int64_t rows = least(kLeftRows, p.left_rows - row), columns = least(kRightRows, p.right_rows - column);
  int64_t part = row / p.part_rows, at = row - part * p.part_rows;
  for (int64_t i = 0; i < rows; ++i) {
    float* to = p.parts[part] + at * p.right_rows + column;
    if (columns == kRightRows) {
      ACMIX_UNROLL
      for (int64_t j = 0; j < kRightRows; ++j) to[j] = totals[i * kRightRows + j] + (begins ? 0.0f : to[j]);
    } else {
      for (int64_t j = 0; j < columns; ++j) to[j] = totals[i * kRightRows + j] + (begins ? 0.0f : to[j]);
    }
    if (++at == p.part_rows) ++part, at = 0;
  }
}

// Sums over pixels of a tile's left rows.
ACMIX_APART void sum_pixels(const RowProducts& p, const PixelStep& step, int64_t row, bool begins) {
  constexpr int64_t lanes = Lanes<float>::count;
  for (int64_t i = row; i < least(row + kLeftRows, p.left_rows); ++i) {
    Vector<float> sums[2]{};
    for (int64_t image = step.image; image < step.image + step.images; ++image) {
      const float* const from = p.left + image * p.left_image + i * p.pixels + step.first;
      int64_t x = 0;
      for (; x + 2 * lanes <= step.count; x += 2 * lanes) {
        sums[0] += load(from + x);
        sums[1] += load(from + x + lanes);
      }
      for (; x < step.count; x += lanes) {
        sums[0] += step.count - x < lanes ? load_first(from + x, step.count - x) : load(from + x);
      }
    }
    float totals[lanes];
    sums[0] += sums[1];
    sums_of_lanes<1>(sums, totals);
    p.sums[i] = totals[0] + (begins ? 0.0f : p.sums[i]);
  }
}

// Equal parts of the right rows.
inline int64_t right_units(const RowProducts& p) { return (p.right_rows + kUnitRight - 1) / kUnitRight; }

inline int64_t row_product_units(const RowProducts& p) { return (p.left_rows + kUnitLeft - 1) / kUnitLeft * right_units(p); }

inline void multiply_rows_by_rows(const RowProducts& p, int64_t first_unit, int64_t last_unit) {
  const PixelSteps steps(p);
  const int64_t columns = round_up((p.right_rows + right_units(p) - 1) / right_units(p), kRightRows);
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const int64_t top = unit / right_units(p) * kUnitLeft, bottom = least(top + kUnitLeft, p.left_rows);
    const int64_t begin = unit % right_units(p) * columns, end = least(begin + columns, p.right_rows);
    for (int64_t image = 0; image < p.images; image += steps.images) {
      for (int64_t first = 0; first < p.pixels; first += steps.pixels) {
        const PixelStep step{image, least(steps.images, p.images - image), first, least(steps.pixels, p.pixels - first)};
        const bool begins = image == 0 && first == 0 && !p.adds;
        for (int64_t row = top; row < bottom; row += kLeftRows) {
          for (int64_t column = begin; column < end; column += kRightRows) multiply_pixels(p, step, row, column, begins);
          if (begin == 0 && p.sums != nullptr) sum_pixels(p, step, row, begins);
        }
      }
    }
  }
}

}  // namespace acmix::ACMIX_ISA
