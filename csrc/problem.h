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
  int64_t kernel, stride, dilation;
  double scale;
  View q, k, v, out;
  View position;  // [1, 1, D, H, W]; data is null where there is none
  // The backward pass. The gradients of keys and values are dense [B, N, D, H, W] of zeros in the computing dtype.
  View grad, grad_q, grad_k, grad_v;
};

// A convolution of G groups with P pieces in and N outputs each; `weight` is dense [G * N, P (+ 1), k, k] in the
// computing dtype. With `ones`, a piece of ones stands behind the others: a bias that zero padding cuts at the border.
struct GroupConvolution {
  int64_t batch, groups, pieces, outputs, height, columns, out_height, out_columns;
  int64_t kernel, stride, dilation;
  bool ones;
  View x, out;
  const void* weight;
  View grad, grad_x;
  void* grad_weight;
};

// The kernels of one instruction set. Each works on the units first..last of a call; no unit depends on another, so
// that results do not depend on how many threads share them.
struct Kernels {
  const char* name;
  int64_t (*attention_forward_units)(const Attention&);
  void (*attention_forward)(const Attention&, int64_t first, int64_t last);
  int64_t (*attention_backward_units)(const Attention&);
  void (*attention_backward)(const Attention&, int64_t first, int64_t last);
  int64_t (*convolution_forward_units)(const GroupConvolution&);
  void (*convolution_forward)(const GroupConvolution&, int64_t first, int64_t last);
  int64_t (*convolution_backward_units)(const GroupConvolution&);
  void (*convolution_backward)(const GroupConvolution&, int64_t first, int64_t last);
};

}  // namespace acmix
