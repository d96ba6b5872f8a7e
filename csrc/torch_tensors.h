// What torch gives to the kernels: views of its tensors, and its threads.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <memory>

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

// Calls body(first, last) until all of 0..count is done. Each thread has an equal part of its own, the same in every call: it
// finds in its cache what it wrote there in the call before. It takes large parts of it at first and small ones in the end, and
// then what others have left.
template <class F>
void in_parts(int64_t count, const F& body) {
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  if (count == 0) return;
  if (threads == 1) return body(0, count);
  const auto first_of = [&](int64_t thread) { return count * thread / threads; };
  const std::unique_ptr<std::atomic<int64_t>[]> next(new std::atomic<int64_t>[static_cast<size_t>(threads)]);
  for (int64_t thread = 0; thread < threads; ++thread) next[static_cast<size_t>(thread)] = first_of(thread);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t number, int64_t) {
    for (int64_t i = 0; i < threads; ++i) {
      const int64_t owner = (number + i) % threads, last = first_of(owner + 1);
      std::atomic<int64_t>& taken = next[static_cast<size_t>(owner)];
      for (int64_t first = taken, size; first < last; first = taken) {
        size = part_of(last - first, 1);
        if (taken.compare_exchange_strong(first, first + size)) body(first, first + size);
      }
    }
  });
}

template <class Call>
void in_parallel(const Call& call, int64_t units, void (*kernel)(const Call&, int64_t, int64_t)) {
  in_parts(units, [&](int64_t first, int64_t last) { kernel(call, first, last); });
}

}  // namespace acmix
