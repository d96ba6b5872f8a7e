// What torch gives to the kernels: views of its tensors, and its threads.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>

#include "joint_work.h"
#include "problem.h"

namespace acmix {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline View view_of(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 5, "acmix_cpu: a tensor has ", x.dim(), " dimensions, expected 5");
  View view{x.data_ptr(), Dtype::float32, {}};
  switch (x.scalar_type()) {
    case ScalarType::Float: break;
    case ScalarType::Double: view.dtype = Dtype::float64; break;
    case ScalarType::Half: view.dtype = Dtype::float16; break;
    case ScalarType::BFloat16: view.dtype = Dtype::bfloat16; break;
    default: STD_TORCH_CHECK(false, "acmix_cpu: a tensor is no float32, float64, float16 or bfloat16");
  }
  for (int64_t i = 0; i < 5; ++i) view.strides[i] = x.stride(i);
  return view;
}

// Calls body(first, last) until all of 0..count is done. Threads take large parts at first and small ones in the end.
template <class F>
void in_parts(int64_t count, const F& body) {
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  if (count == 0) return;
  if (threads == 1) return body(0, count);
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t first = next.load(), size; first < count; first = next.load()) {
      size = part_of(count - first, threads);
      if (next.compare_exchange_strong(first, first + size)) body(first, first + size);
    }
  });
}

template <class Call>
void in_parallel(const Call& call, int64_t units, void (*kernel)(const Call&, int64_t, int64_t)) {
  in_parts(units, [&](int64_t first, int64_t last) { kernel(call, first, last); });
}

}  // namespace acmix
