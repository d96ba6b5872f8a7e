// What a call of an op is, in plain numbers: no torch here, so that the kernels compile alone.
#pragma once
#include <cstdint>

namespace acmix {

enum class Dtype { float32, float64, float16, bfloat16 };

// A tensor of five dimensions: attention's [B, N, D, H, W], or the pieces' [B, D, P, H, W]. Strides in elements.
struct View {
  void* data;
  Dtype dtype;
  int64_t strides[5];
};

// Window attention; `scale` multiplies the logits.
struct Attention {
  int64_t batch, heads, width, height, columns, out_height, out_columns;
  int64_t top, bottom;  // the output rows that the forward pass computes
  int64_t kernel, stride, dilation;
  double scale;
  View q, k, v, out;
  View position;  // [1, 1, D, H, W]; data is null where there is none
  // The same in parts, for those kernels that say that they take them: `code` [D, 2] times the place of a key's column and of
  // its row, [W] and [H]; null where there are none. A constant would be in all logits of a query.
  const float *code, *across, *down;
  const void* rate;  // a number in the computing dtype that multiplies the output; null: 1
  // The backward pass. The gradients of keys and values are in the computing dtype, each [D, H, W] of them dense.
  View grad, grad_q, grad_k, grad_v;
  // At a stride, the queries in between get zeros; else zeros stand there. Then grad_q is in the computing dtype too and
  // each [D, H, W] of it dense.
  bool fills;
  void* grad_rate;  // [B, N] shares of the rate's gradient in the computing dtype; null: not wanted
};

// A convolution of G groups with P pieces in and N outputs each; `weight` is dense [G * N, P (+ 1), k, k] in the
// computing dtype. With `ones`, a piece of ones stands behind the others: a bias that zero padding cuts at the border.
struct GroupConvolution {
  int64_t batch, groups, pieces, outputs, height, columns, out_height, out_columns;
  int64_t top, bottom;  // the output rows that the forward pass computes; to the same bits as all of them if the first is even
  int64_t kernel, stride, dilation;
  bool ones;
  bool adds;  // to what stands in `out`, or in `grad_x`; else it is written over
  View x, out;
  const void* weight;
  View grad, grad_x;
  void* grad_weight;
};

// A product of float32 matrices for each image, out [rows, pixels] = weight [rows, depth] x [depth, pixels] + bias. The
// weight's rows stand in three dense parts one below the other, [part_rows, columns] each; `transposed`: its columns do.
struct Product {
  int64_t images, rows, depth, pixels;
  const float* parts[3];
  int64_t part_rows, part_columns;
  bool transposed;
  bool by_tiles;      // of a matrix unit, where the set has them
  const float* bias;  // [rows] or null
  float* panels;      // memory for the weight in the order in which it is multiplied
  const float* x;     // rows of pixels are dense
  int64_t x_image, x_row;
  float* out;
  int64_t out_image, out_row;
};

// Products of rows of float32, summed over pixels and images: out [left_rows, right_rows] from [images, rows, pixels] each,
// of which the pixels are dense. Its rows stand in dense parts of `part_rows` each.
struct RowProducts {
  int64_t images, left_rows, right_rows, pixels;
  int64_t row;  // entries from row to row, of both
  const float* left;
  int64_t left_image;
  const float* right;
  int64_t right_image;
  float* parts[3];
  int64_t part_rows;
  float* sums;  // [left_rows], of the left rows alone; null: not wanted
  bool adds;    // to what stands in `parts` and `sums`
  float* turned;  // memory for the right map, pixels by rows
};

// The FC [maps, pieces] and the shifts [channels, maps, maps] of k * k maps, which make kernels [channels, pieces, maps].
struct Mixing {
  int64_t channels, maps, pieces;
  const float *mix, *shifts;
  float* kernels;
  // The backward pass.
  const float* grad_kernels;
  float *grad_mix, *grad_shifts;
};

// Sums over pixels of rows of float32 times the two rows of a grid, and of the rows alone: [rows][3]. A unit is a row.
struct GridSums {
  int64_t pixels;
  const float *rows, *grid;
  double* sums;
};

// The kernels of one instruction set. Each works on the units first..last of a call; no unit depends on another, so
// that results do not depend on how many threads share them. How many units there are is for the same set to say.
struct Kernels {
  const char* name;
  bool (*takes_code_in_parts)(const Attention&);  // both passes, on maps like these
  int64_t (*attention_forward_units)(const Attention&);
  void (*attention_forward)(const Attention&, int64_t first, int64_t last);
  int64_t (*attention_backward_units)(const Attention&);
  void (*attention_backward)(const Attention&, int64_t first, int64_t last);
  int64_t (*convolution_forward_units)(const GroupConvolution&);
  void (*convolution_forward)(const GroupConvolution&, int64_t first, int64_t last);
  int64_t (*convolution_backward_units)(const GroupConvolution&);
  void (*convolution_backward)(const GroupConvolution&, int64_t first, int64_t last);
  bool (*pays_by_tiles)(const Product&);  // whether `by_tiles` is faster; null: there is no matrix unit
  int64_t (*product_panels_size)(const Product&);  // entries of `panels`
  int64_t (*panel_units)(const Product&);
  void (*arrange_panels)(const Product&, int64_t first, int64_t last);
  int64_t (*product_units)(const Product&);
  void (*multiply)(const Product&, int64_t first, int64_t last);
  int64_t (*turned_size)(const RowProducts&);  // entries of `turned`
  int64_t (*turn_units)(const RowProducts&);
  void (*turn_rows)(const RowProducts&, int64_t first, int64_t last);
  int64_t (*row_product_units)(const RowProducts&);
  void (*multiply_rows)(const RowProducts&, int64_t first, int64_t last);
  void (*sum_over_grid)(const GridSums&, int64_t first, int64_t last);
  void (*compose)(const Mixing&, int64_t first_channel, int64_t last_channel);
  void (*pull_back_shifts)(const Mixing&, int64_t first_channel, int64_t last_channel);
  void (*pull_back_mix)(const Mixing&, int64_t first_map, int64_t last_map);
};

}  // namespace acmix
