// The kernels as torch operators, on torch's stable ABI: one binary for every torch from 2.11 on. They write into
// tensors that the caller has made; `acmix.ops.impl.cpu` is the caller.
#include <optional>
#include <string>

#include "instruction_sets.h"
#include "torch_tensors.h"

namespace {

using acmix::in_parallel;
using acmix::Tensor;
using acmix::view_of;

acmix::Attention attention_of(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& position,
                              const Tensor& rows, int64_t kernel, int64_t stride, int64_t dilation, double scale) {
  acmix::Attention a{};
  a.batch = q.size(0), a.heads = q.size(1), a.width = q.size(2), a.height = q.size(3), a.columns = q.size(4);
  a.out_height = rows.size(3), a.out_columns = rows.size(4);
  a.top = 0, a.bottom = a.out_height;
  a.kernel = kernel, a.stride = stride, a.dilation = dilation, a.scale = scale;
  a.q = view_of(q), a.k = view_of(k), a.v = view_of(v);
  if (position.has_value()) a.position = view_of(*position);
  return a;
}

void attention_forward(const Tensor q, const Tensor k, const Tensor v, const std::optional<Tensor> position, Tensor out,
                       int64_t kernel, int64_t stride, int64_t dilation, double scale) {
  acmix::Attention a = attention_of(q, k, v, position, out, kernel, stride, dilation, scale);
  a.out = view_of(out);
  const acmix::Kernels& kernels = acmix::kernels();
  in_parallel(a, kernels.attention_forward_units(a), kernels.attention_forward);
}

void attention_backward(const Tensor grad, const Tensor q, const Tensor k, const Tensor v,
                        const std::optional<Tensor> position, Tensor grad_q, Tensor grad_k, Tensor grad_v, int64_t kernel,
                        int64_t stride, int64_t dilation, double scale) {
  acmix::Attention a = attention_of(q, k, v, position, grad, kernel, stride, dilation, scale);
  a.grad = view_of(grad), a.grad_q = view_of(grad_q), a.grad_k = view_of(grad_k), a.grad_v = view_of(grad_v);
  const acmix::Kernels& kernels = acmix::kernels();
  in_parallel(a, kernels.attention_backward_units(a), kernels.attention_backward);
}

// `rows` [B, G, N, H', W'] is the output, or its gradient.
acmix::GroupConvolution convolution_of(const Tensor& x, const Tensor& weight, const Tensor& rows, int64_t stride,
                                       int64_t dilation, bool ones) {
  acmix::GroupConvolution c{};
  c.batch = x.size(0), c.groups = x.size(1), c.pieces = x.size(2), c.height = x.size(3), c.columns = x.size(4);
  c.outputs = rows.size(2), c.out_height = rows.size(3), c.out_columns = rows.size(4);
  c.top = 0, c.bottom = c.out_height;
  c.kernel = weight.size(3), c.stride = stride, c.dilation = dilation, c.ones = ones;
  c.x = view_of(x), c.weight = weight.data_ptr();
  return c;
}

void convolution_forward(const Tensor x, const Tensor weight, Tensor out, int64_t stride, int64_t dilation, bool ones) {
  acmix::GroupConvolution c = convolution_of(x, weight, out, stride, dilation, ones);
  c.out = view_of(out);
  const acmix::Kernels& kernels = acmix::kernels();
  in_parallel(c, kernels.convolution_forward_units(c), kernels.convolution_forward);
}

void convolution_backward(const Tensor grad, const Tensor x, const Tensor weight, Tensor grad_x, Tensor grad_weight,
                          int64_t stride, int64_t dilation, bool ones) {
  acmix::GroupConvolution c = convolution_of(x, weight, grad, stride, dilation, ones);
  c.grad = view_of(grad), c.grad_x = view_of(grad_x), c.grad_weight = grad_weight.data_ptr();
  const acmix::Kernels& kernels = acmix::kernels();
  in_parallel(c, kernels.convolution_backward_units(c), kernels.convolution_backward);
}

// Names of the instruction sets that can run here, the best first, in one text.
std::string instruction_sets() {
  const acmix::Kernels* sets[acmix::kMostSets];
  const int count = acmix::available(sets);
  std::string names;
  for (int i = 0; i < count; ++i) names += (i ? " " : "") + std::string(sets[i]->name);
  return names;
}

// What these operators take and give, as a number: the Python beside this library knows which one it needs.
constexpr int64_t kInterface = 10;

int64_t interface() { return kInterface; }

bool use_instruction_set(std::string name) { return acmix::choose(name.c_str()); }

}  // namespace

STABLE_TORCH_LIBRARY(acmix_cpu, m) {
  m.def("attention_forward(Tensor q, Tensor k, Tensor v, Tensor? position, Tensor(a!) out, int kernel, int stride, "
        "int dilation, float scale) -> ()");
  m.def("attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? position, Tensor(a!) grad_q, "
        "Tensor(b!) grad_k, Tensor(c!) grad_v, int kernel, int stride, int dilation, float scale) -> ()");
  m.def("convolution_forward(Tensor x, Tensor weight, Tensor(a!) out, int stride, int dilation, bool ones) -> ()");
  m.def("convolution_backward(Tensor grad, Tensor x, Tensor weight, Tensor(a!) grad_x, Tensor(b!) grad_weight, "
        "int stride, int dilation, bool ones) -> ()");
  m.def("interface() -> int");
  m.def("instruction_sets() -> str");
  m.def("use_instruction_set(str name) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(acmix_cpu, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&attention_forward));
  m.impl("attention_backward", TORCH_BOX(&attention_backward));
  m.impl("convolution_forward", TORCH_BOX(&convolution_forward));
  m.impl("convolution_backward", TORCH_BOX(&convolution_backward));
}

STABLE_TORCH_LIBRARY_IMPL(acmix_cpu, CompositeExplicitAutograd, m) {
  m.impl("interface", TORCH_BOX(&interface));
  m.impl("instruction_sets", TORCH_BOX(&instruction_sets));
  m.impl("use_instruction_set", TORCH_BOX(&use_instruction_set));
}
