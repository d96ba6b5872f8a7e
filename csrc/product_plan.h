// How stage I's product is cut into units, by its shape alone: the results do not depend on the number of threads.
#pragma once
#include "problem.h"
#include "simd.h"

namespace acmix::ACMIX_ISA {

constexpr int64_t kFewUnits = 12;  // fewer blocks of columns than that are cut by rows too
constexpr int64_t kThreads = 4;    // so many share the units evenly where there are some

// So many at a time that each time there are about as many, `most` at most.
constexpr int64_t evenly(int64_t all, int64_t most) {
  const int64_t times = (all + most - 1) / most;
  return times > 0 ? (all + times - 1) / times : most;
}

// Tiles of WIDE columns, MOST of them in a block at most, and of HIGH rows.
template <int64_t WIDE, int64_t MOST, int64_t HIGH>
struct ProductPlan {
  int64_t columns, tiles, column_blocks, block_rows, row_blocks;

  explicit ProductPlan(const Product& p) : columns(p.images * p.pixels), tiles((columns + WIDE - 1) / WIDE) {
    column_blocks = (tiles + MOST - 1) / MOST;
    if (column_blocks > kFewUnits) column_blocks = least(tiles, round_up(column_blocks, kThreads));
    int64_t cuts = column_blocks > 0 && column_blocks < kFewUnits ? (kFewUnits + column_blocks - 1) / column_blocks : 1;
    while (cuts > 1 && cuts * column_blocks % kThreads != 0) ++cuts;
    block_rows = round_up((p.rows + cuts - 1) / cuts, HIGH);
    row_blocks = p.rows > 0 ? (p.rows + block_rows - 1) / block_rows : 0;
  }

  int64_t units() const { return column_blocks * row_blocks; }

  // The first tile of a block of columns: blocks differ by a tile at most.
  int64_t first_tile(int64_t block) const { return tiles * block / column_blocks; }
};

// Where a tile's columns stand: side by side in one image, or over the border of two.
template <int64_t WIDE>
struct ColumnsOf {
  int64_t count, image, pixel;
  bool whole;  // whether it has the columns of a whole tile in one image

  ColumnsOf(const Product& p, int64_t column, int64_t columns)
      : count(least(WIDE, columns - column)), image(column / p.pixels), pixel(column % p.pixels), whole(pixel + WIDE <= p.pixels) {}

  // Where the first one is written, of a row.
  int64_t to(const Product& p) const { return image * p.out_image + pixel; }
};

}  // namespace acmix::ACMIX_ISA
