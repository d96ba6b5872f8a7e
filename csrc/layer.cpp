// The whole layer in float32, projections included: what one stage writes, the next one finds in the cache, and the two
// paths write and read the same memory. Maps are dense [B, C, H, W]; `projected` is [B, 3, N, D, H, W].
#include <memory>
#include <optional>

#include "instruction_sets.h"
#include "torch_tensors.h"

namespace acmix {
namespace {

struct Sizes {
  int64_t batch, in_channels, heads, width, height, columns, out_height, out_columns;

  int64_t channels() const { return heads * width; }
  int64_t pixels() const { return height * columns; }
  int64_t outputs() const { return out_height * out_columns; }
};

struct Window {
  int64_t attention, convolution, stride, dilation;
};

float* data(const Tensor& x) { return static_cast<float*>(x.data_ptr()); }

float* data(const std::optional<Tensor>& x) { return x.has_value() ? data(*x) : nullptr; }

void require(const Tensor& x, const char* name, int64_t entries) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float && x.is_contiguous() && x.numel() == entries,
                  "acmix_cpu: ", name, " is not dense float32 of ", entries, " entries");
}

View view(float* from, int64_t image, int64_t outer, int64_t inner, int64_t row) {
  return View{from, Dtype::float32, {image, outer, inner, row, 1}};
}

// One of q, k, v, or their gradients, as [B, N, D, H, W].
View part(const Sizes& s, float* projected, int64_t number) {
  const int64_t map = s.pixels(), channels = s.channels();
  return view(projected + number * channels * map, 3 * channels * map, s.width * map, map, s.columns);
}

// All of them as [B, D, P, H, W].
View pieces(const Sizes& s, float* projected) {
  return view(projected, 3 * s.channels() * s.pixels(), s.pixels(), s.width * s.pixels(), s.columns);
}

Attention attention_of(const Sizes& s, const Window& window, double scale, const std::optional<Tensor>& position,
                       const std::optional<Tensor>& rate, float* projected) {
  Attention a{};
  a.batch = s.batch, a.heads = s.heads, a.width = s.width, a.height = s.height, a.columns = s.columns;
  a.out_height = s.out_height, a.out_columns = s.out_columns;
  a.kernel = window.attention, a.stride = window.stride, a.dilation = window.dilation, a.scale = scale;
  a.q = part(s, projected, 0), a.k = part(s, projected, 1), a.v = part(s, projected, 2);
  if (position.has_value()) require(*position, "position", s.width * s.pixels());
  if (rate.has_value()) require(*rate, "rate", 1);
  a.position = view(data(position), 0, 0, s.pixels(), s.columns);
  a.rate = data(rate);
  return a;
}

// FC and shifts as one kernel: [C, P, k, k] from [k * k, P] and [C, k * k, k, k].
std::unique_ptr<float[]> composed(const std::optional<Tensor>& optional_fc, const std::optional<Tensor>& optional_shift) {
  if (!optional_fc.has_value() || !optional_shift.has_value()) return nullptr;
  const Tensor &fc = *optional_fc, &shift = *optional_shift;
  const int64_t maps = fc.size(0), pieces = fc.size(1), channels = shift.size(0);
  require(fc, "the FC's weight", maps * pieces);
  require(shift, "the shifts' weight", channels * maps * maps);
  std::unique_ptr<float[]> kernels(new float[channels * pieces * maps]);
  const float *mix = data(fc), *shifts = data(shift);
  torch::stable::parallel_for(0, channels, 64, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      for (int64_t p = 0; p < pieces; ++p) {
        float* const to = kernels.get() + (c * pieces + p) * maps;
        for (int64_t t = 0; t < maps; ++t) to[t] = 0;
        for (int64_t i = 0; i < maps; ++i) {
          const float* const from = shifts + (c * maps + i) * maps;
          for (int64_t t = 0; t < maps; ++t) to[t] += mix[i * pieces + p] * from[t];
        }
      }
    }
  });
  return kernels;
}

GroupConvolution convolution_of(const Sizes& s, const Window& window, const float* kernels, float* projected) {
  GroupConvolution c{};
  c.batch = s.batch, c.groups = s.width, c.pieces = 3 * s.heads, c.outputs = s.heads;
  c.height = s.height, c.columns = s.columns, c.out_height = s.out_height, c.out_columns = s.out_columns;
  c.kernel = window.convolution, c.stride = window.stride, c.dilation = window.dilation, c.adds = window.attention > 0;
  c.x = pieces(s, projected), c.weight = kernels;
  return c;
}

// The output, or its gradient, as the attention path has it: [B, N, D, H', W'].
View by_heads(const Sizes& s, float* out) {
  return view(out, s.channels() * s.outputs(), s.width * s.outputs(), s.outputs(), s.out_columns);
}

// The same as the convolution path has it: [B, D, N, H', W'].
View by_groups(const Sizes& s, float* out) {
  return view(out, s.channels() * s.outputs(), s.heads * s.outputs(), s.outputs(), s.out_columns);
}

Product product_of(const Sizes& s, const Tensor& query, const Tensor& key, const Tensor& value) {
  const Tensor* const parts[] = {&query, &key, &value};
  Product p{};
  p.images = s.batch, p.pixels = s.pixels();
  p.part_rows = s.channels(), p.part_columns = s.in_channels;
  for (int i = 0; i < 3; ++i) {
    require(*parts[i], "a projection", s.channels() * s.in_channels);
    p.parts[i] = data(*parts[i]);
  }
  return p;
}

std::unique_ptr<float[]> arranged(const Kernels& kernels, Product& p) {
  const int64_t size = kernels.product_panels_size(p);
  std::unique_ptr<float[]> panels(size ? new float[size] : nullptr);
  p.panels = panels.get();
  in_parallel(p, kernels.panel_units(p), kernels.arrange_panels);
  return panels;
}

Sizes sizes_of(const Tensor& x, const Tensor& out, int64_t heads) {
  return {x.size(0), x.size(1), heads, out.size(1) / heads, x.size(2), x.size(3), out.size(2), out.size(3)};
}

// Stage I as a product, from x to q, k and v.
Product projection_of(const Sizes& s, const Tensor& x, const Tensor& query, const Tensor& key, const Tensor& value,
                      const std::optional<Tensor>& bias, const Tensor& projected) {
  const int64_t channels = s.channels(), map = s.pixels();
  Product p = product_of(s, query, key, value);
  require(x, "x", s.batch * s.in_channels * map);
  require(projected, "projected", projected.size(0) * 3 * channels * map);
  if (bias.has_value()) require(*bias, "bias", 3 * channels);
  p.rows = 3 * channels, p.depth = s.in_channels, p.bias = data(bias);
  p.x = data(x), p.x_image = s.in_channels * map, p.x_row = map;
  p.out = data(projected), p.out_image = 3 * channels * map, p.out_row = map;
  return p;
}

// q, k and v again, for the backward pass.
void project(const Tensor x, const Tensor query, const Tensor key, const Tensor value, const std::optional<Tensor> bias,
             Tensor projected) {
  const Sizes s{x.size(0), x.size(1), projected.size(2), projected.size(3), x.size(2), x.size(3), 0, 0};
  require(projected, "projected", s.batch * 3 * s.channels() * s.pixels());
  const Kernels& set = acmix::kernels();
  Product p = projection_of(s, x, query, key, value, bias, projected);
  const std::unique_ptr<float[]> panels = arranged(set, p);
  in_parallel(p, set.product_units(p), set.multiply);
}

// A kernel on all units of a call: shared by all threads, or by the calling one alone.
template <class Call>
void run(bool shared, const Call& call, int64_t units, void (*kernel)(const Call&, int64_t, int64_t)) {
  if (shared) in_parallel(call, units, kernel);
  else kernel(call, 0, units);
}

// All that is the same for all images of a forward pass.
struct Forward {
  Sizes whole;
  Window windows;
  Product product;
  Attention attention;
  GroupConvolution convolution;
  float* out;

  // Some images from `first` on; q, k and v go to `projected`.
  void operator()(const Kernels& set, bool shared, int64_t first, int64_t images, float* projected) const {
    Sizes s = whole;
    s.batch = images;
    Product p = product;
    p.images = images, p.x += first * p.x_image, p.out = projected;
    run(shared, p, set.product_units(p), set.multiply);
    float* const to = out + first * s.channels() * s.outputs();
    if (windows.attention > 0) {
      Attention a = attention;
      a.batch = images, a.q = part(s, projected, 0), a.k = part(s, projected, 1), a.v = part(s, projected, 2);
      a.out = by_heads(s, to);
      run(shared, a, set.attention_forward_units(a), set.attention_forward);
    }
    if (windows.convolution > 0) {
      GroupConvolution c = convolution;
      c.batch = images, c.x = pieces(s, projected), c.out = by_groups(s, to);
      run(shared, c, set.convolution_forward_units(c), set.convolution_forward);
    }
  }
};

// `together` images at a time. With `chunks` > 1 the batch is cut into as many parts and each thread goes through all
// stages of its own: what it writes is in its own cache when it reads it. `projected` holds the whole batch, or what all
// chunks need at a time, and is then used again and again.
void layer_forward(const Tensor x, const Tensor query, const Tensor key, const Tensor value,
                   const std::optional<Tensor> bias, const std::optional<Tensor> position, const std::optional<Tensor> fc,
                   const std::optional<Tensor> shift, const std::optional<Tensor> rate, Tensor out, Tensor projected, int64_t heads,
                   int64_t window, int64_t stride, int64_t dilation, double scale, int64_t chunks, int64_t together) {
  const Sizes whole = sizes_of(x, out, heads);
  const int64_t batch = whole.batch, image = 3 * whole.channels() * whole.pixels();
  require(out, "out", batch * whole.channels() * whole.outputs());
  const Kernels& set = acmix::kernels();
  const Window windows{window, shift.has_value() ? shift->size(3) : 0, stride, dilation};
  const std::unique_ptr<float[]> kernels = composed(fc, shift);
  Product p = projection_of(whole, x, query, key, value, bias, projected);
  const std::unique_ptr<float[]> panels = arranged(set, p);
  float* const kept = data(projected);
  const Forward forward{whole, windows, p, attention_of(whole, windows, scale, position, rate, kept),
                        convolution_of(whole, windows, kernels.get(), kept), data(out)};
  const bool keeps = projected.size(0) == batch;
  STD_TORCH_CHECK(keeps || projected.size(0) >= chunks * together, "acmix_cpu: too few images in projected");
  const auto chunk = [&](int64_t number, bool shared) {
    const int64_t end = batch * (number + 1) / chunks;
    for (int64_t first = batch * number / chunks, images; first < end; first += images) {
      images = std::min(together, end - first);
      forward(set, shared, first, images, kept + (keeps ? first : number * together) * image);
    }
  };
  if (chunks == 1) return chunk(0, true);
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t number = first; number < last; ++number) chunk(number, false);
  });
}

// The position's gradient [D, H, W]: the keys' gradients over batch and heads, their signs turned.
void sum_position(const Sizes& s, const float* grad_keys, float* to) {
  const int64_t map = s.width * s.pixels(), image = 3 * s.channels() * s.pixels();
  torch::stable::parallel_for(0, map, 4096, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) to[i] = 0;
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t n = 0; n < s.heads; ++n) {
        const float* from = grad_keys + b * image + n * map;
        for (int64_t i = first; i < last; ++i) to[i] -= from[i];
      }
    }
  });
}

// Gradients of what stage I gave, of the rate's shares [B, N], of the position and of the kernels.
void layer_backward(const Tensor grad, const Tensor projected, const std::optional<Tensor> position, const std::optional<Tensor> fc,
                    const std::optional<Tensor> shift, const std::optional<Tensor> rate, Tensor grad_projected, const std::optional<Tensor> grad_rate,
                    const std::optional<Tensor> grad_position, const std::optional<Tensor> grad_kernels, int64_t window, int64_t stride,
                    int64_t dilation, double scale) {
  const Sizes s{projected.size(0), 0, projected.size(2), projected.size(3), projected.size(4), projected.size(5),
                grad.size(2),      grad.size(3)};
  require(grad, "grad", s.batch * s.channels() * s.outputs());
  require(projected, "projected", s.batch * 3 * s.channels() * s.pixels());
  require(grad_projected, "grad_projected", s.batch * 3 * s.channels() * s.pixels());
  const Kernels& set = acmix::kernels();
  const Window windows{window, shift.has_value() ? shift->size(3) : 0, stride, dilation};
  const std::unique_ptr<float[]> kernels = composed(fc, shift);
  if (window > 0) {
    Attention a = attention_of(s, windows, scale, position, rate, data(projected));
    a.grad = by_heads(s, data(grad));
    a.grad_q = part(s, data(grad_projected), 0);
    a.grad_k = part(s, data(grad_projected), 1);
    a.grad_v = part(s, data(grad_projected), 2);
    a.grad_rate = data(grad_rate);
    in_parallel(a, set.attention_backward_units(a), set.attention_backward);
    if (grad_position.has_value()) sum_position(s, static_cast<const float*>(a.grad_k.data), data(grad_position));
  }
  if (kernels != nullptr) {
    GroupConvolution c = convolution_of(s, windows, kernels.get(), data(projected));
    c.grad = by_groups(s, data(grad));
    c.grad_x = pieces(s, data(grad_projected));
    c.grad_weight = data(grad_kernels);
    in_parallel(c, set.convolution_backward_units(c), set.convolution_backward);
  }
}

// The gradient of the layer's input.
void project_back(const Tensor grad_projected, const Tensor query, const Tensor key, const Tensor value, Tensor grad_x) {
  const int64_t channels = grad_projected.size(2) * grad_projected.size(3);
  const Sizes s{grad_x.size(0), grad_x.size(1), 1, channels, grad_x.size(2), grad_x.size(3), 0, 0};
  require(grad_projected, "grad_projected", s.batch * 3 * channels * s.pixels());
  require(grad_x, "grad_x", s.batch * s.in_channels * s.pixels());
  const Kernels& set = acmix::kernels();
  Product p = product_of(s, query, key, value);
  p.rows = s.in_channels, p.depth = 3 * channels, p.transposed = true;
  p.x = data(grad_projected), p.x_image = 3 * channels * s.pixels(), p.x_row = s.pixels();
  p.out = data(grad_x), p.out_image = s.in_channels * s.pixels(), p.out_row = s.pixels();
  const std::unique_ptr<float[]> panels = arranged(set, p);
  in_parallel(p, set.product_units(p), set.multiply);
}

}  // namespace
}  // namespace acmix

STABLE_TORCH_LIBRARY_FRAGMENT(acmix_cpu, m) {
  m.def("layer_forward(Tensor x, Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? position, Tensor? fc, "
        "Tensor? shift, Tensor? rate, Tensor(a!) out, Tensor(b!) projected, int heads, int window, int stride, int dilation, "
        "float scale, int chunks, int together) -> ()");
  m.def("layer_backward(Tensor grad, Tensor projected, Tensor? position, Tensor? fc, Tensor? shift, Tensor? rate, "
        "Tensor(a!) grad_projected, Tensor(b!)? grad_rate, Tensor(c!)? grad_position, Tensor(d!)? grad_kernels, int window, "
        "int stride, int dilation, float scale) -> ()");
  m.def("project(Tensor x, Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor(a!) projected) -> ()");
  m.def("project_back(Tensor grad_projected, Tensor query, Tensor key, Tensor value, Tensor(a!) grad_x) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(acmix_cpu, CPU, m) {
  m.impl("layer_forward", TORCH_BOX(&acmix::layer_forward));
  m.impl("layer_backward", TORCH_BOX(&acmix::layer_backward));
  m.impl("project", TORCH_BOX(&acmix::project));
  m.impl("project_back", TORCH_BOX(&acmix::project_back));
}
