// From a case and the memory of its tensors to the structs that kernels take.
#pragma once
#include <cstring>
#include <memory>
#include <vector>

#include "../problem.h"
#include "cases.h"
#include "memory.h"

namespace acmix::check {

// A case's tensors, each in memory of its own. `missing` bytes at the end of each are not there: a check of the check.
class Placed {
 public:
  Placed(const Case& c, Place place, size_t missing) : case_(c) {
    for (const Tensor& t : c.tensors) {
      const size_t size = t.bytes.size() > missing ? t.bytes.size() - missing : 0;
      blocks_.push_back(t.dtype < 0 ? nullptr : std::make_unique<Block>(size, place));
      if (size > 0) ::memcpy(blocks_.back()->data(), t.bytes.data(), size);
      sizes_.push_back(size);
    }
  }

  void* data(size_t i) const { return blocks_[i] ? blocks_[i]->data() : nullptr; }
  float* floats(size_t i) const { return static_cast<float*>(data(i)); }

  View view(size_t i) const {
    const Tensor& t = case_.tensors[i];
    View view{};
    if (t.dtype < 0) return view;
    view.data = data(i), view.dtype = static_cast<Dtype>(t.dtype);
    for (int axis = 0; axis < 5; ++axis) view.strides[axis] = t.strides[axis];
    return view;
  }

  std::vector<std::string> bytes() const {
    std::vector<std::string> all;
    for (size_t i = 0; i < blocks_.size(); ++i) all.emplace_back(case_.tensors[i].bytes.size(), '\0');
    for (size_t i = 0; i < blocks_.size(); ++i) {
      if (sizes_[i] > 0) ::memcpy(&all[i][0], blocks_[i]->data(), sizes_[i]);
    }
    return all;
  }

 private:
  const Case& case_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<size_t> sizes_;
};

inline Attention attention_of(const Case& c, const Placed& at) {
  const std::vector<int64_t>& n = c.numbers;
  Attention a{};
  a.batch = n[0], a.heads = n[1], a.width = n[2], a.height = n[3], a.columns = n[4], a.out_height = n[5], a.out_columns = n[6];
  a.top = 0, a.bottom = a.out_height;
  a.kernel = n[7], a.stride = n[8], a.dilation = n[9], a.fills = n[10] != 0, a.scale = c.scale;
  a.q = at.view(0), a.k = at.view(1), a.v = at.view(2), a.out = at.view(3), a.position = at.view(4), a.rate = at.data(5);
  a.code = at.floats(11), a.across = at.floats(12), a.down = at.floats(13);
  a.grad = at.view(6), a.grad_q = at.view(7), a.grad_k = at.view(8), a.grad_v = at.view(9), a.grad_rate = at.data(10);
  return a;
}

inline GroupConvolution convolution_of(const Case& c, const Placed& at) {
  const std::vector<int64_t>& n = c.numbers;
  GroupConvolution g{};
  g.batch = n[0], g.groups = n[1], g.pieces = n[2], g.outputs = n[3], g.height = n[4], g.columns = n[5];
  g.out_height = n[6], g.out_columns = n[7], g.top = 0, g.bottom = n[6], g.kernel = n[8], g.stride = n[9], g.dilation = n[10];
  g.ones = n[11] != 0, g.adds = n[12] != 0;
  g.x = at.view(0), g.out = at.view(1), g.weight = at.data(2);
  g.grad = at.view(3), g.grad_x = at.view(4), g.grad_weight = at.data(5);
  return g;
}

inline Product product_of(const Case& c, const Placed& at) {
  const std::vector<int64_t>& n = c.numbers;
  Product p{};
  p.images = n[0], p.rows = n[1], p.depth = n[2], p.pixels = n[3], p.part_rows = n[4], p.part_columns = n[5];
  p.transposed = n[6] != 0, p.x_image = n[7], p.x_row = n[8], p.out_image = n[9], p.out_row = n[10];
  for (size_t i = 0; i < 3; ++i) p.parts[i] = at.floats(i);
  p.bias = at.floats(3), p.x = at.floats(4), p.out = at.floats(5);
  return p;
}

inline RowProducts row_products_of(const Case& c, const Placed& at) {
  const std::vector<int64_t>& n = c.numbers;
  RowProducts p{};
  p.images = n[0], p.left_rows = n[1], p.right_rows = n[2], p.pixels = n[3], p.left_image = n[4], p.right_image = n[5];
  p.row = p.pixels;
  p.part_rows = n[6], p.adds = n[7] != 0;
  p.left = at.floats(0), p.right = at.floats(1), p.sums = at.floats(5);
  for (size_t i = 0; i < 3; ++i) p.parts[i] = at.floats(2 + i);
  return p;
}

inline GridSums grid_sums_of(const Case& c, const Placed& at) {
  return {c.numbers[1], at.floats(0), at.floats(1), static_cast<double*>(at.data(2))};
}

inline Mixing mixing_of(const Case& c, const Placed& at) {
  const std::vector<int64_t>& n = c.numbers;
  return {n[0], n[1], n[2], at.floats(0), at.floats(1), at.floats(2), at.floats(3), at.floats(4), at.floats(5)};
}

}  // namespace acmix::check
