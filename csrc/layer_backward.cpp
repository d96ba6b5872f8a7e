// The gradients of the whole layer in float32, some images at a time.
#include <cstring>
#include <vector>

#include "layer_parts.h"

namespace acmix {
namespace {

// The position's gradient [D, H, W]: the keys' gradients over images and heads, their signs turned; `adds` to what stands
// there.
void sum_position(const Sizes& s, const float* grad_keys, bool adds, float* to) {
  const int64_t map = s.width * s.pixels(), image = 3 * s.channels() * s.pixels();
  torch::stable::parallel_for(0, map, 4096, [&](int64_t first, int64_t last) {
    if (!adds) std::memset(to + first, 0, (last - first) * sizeof(float));
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t n = 0; n < s.heads; ++n) {
        const float* from = grad_keys + b * image + n * map;
        for (int64_t i = first; i < last; ++i) to[i] -= from[i];
      }
    }
  });
}

// From the gradient of the composed kernels [C, P, k, k] to those of the FC [k * k, P] and of the shifts [C, k * k, k, k].
void pull_back(const Tensor& fc, const Tensor& shift, const float* grad_kernels, float* grad_fc, float* grad_shift) {
  const int64_t maps = fc.size(0), pieces = fc.size(1), channels = shift.size(0);
  const float *mix = data(fc), *shifts = data(shift);
  torch::stable::parallel_for(0, channels, 64, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      for (int64_t i = 0; i < maps; ++i) {
        float* const to = grad_shift + (c * maps + i) * maps;
        for (int64_t t = 0; t < maps; ++t) to[t] = 0;
        for (int64_t p = 0; p < pieces; ++p) {
          const float* const from = grad_kernels + (c * pieces + p) * maps;
          for (int64_t t = 0; t < maps; ++t) to[t] += mix[i * pieces + p] * from[t];
        }
      }
    }
  });
  torch::stable::parallel_for(0, maps * pieces, 16, [&](int64_t first, int64_t last) {
    for (int64_t entry = first; entry < last; ++entry) {
      double total = 0;
      for (int64_t c = 0; c < channels; ++c) {
        const float* const from = shifts + (c * maps + entry / pieces) * maps;
        const float* const grads = grad_kernels + (c * pieces + entry % pieces) * maps;
        float of_channel = 0;
        for (int64_t t = 0; t < maps; ++t) of_channel += from[t] * grads[t];
        total += of_channel;
      }
      grad_fc[entry] = static_cast<float>(total);
    }
  });
}

// The gradient of stage I's input as a product, from the gradients of q, k and v.
Product back_projection_of(const Sizes& s, const Tensor& query, const Tensor& key, const Tensor& value, float* grad_projected,
                           float* grad_x) {
  Product p = product_of(s, query, key, value);
  p.rows = s.in_channels, p.depth = 3 * s.channels(), p.transposed = true;
  p.x = grad_projected, p.x_image = 3 * s.channels() * s.pixels(), p.x_row = s.pixels();
  p.out = grad_x, p.out_image = s.in_channels * s.pixels(), p.out_row = s.pixels();
  return p;
}

// What the sums over images are written to; null where they are not wanted.
struct Sums {
  float *projections[3], *bias, *position, *kernels;
};

// All that is the same for all images of a backward pass.
struct Backward {
  Sizes whole;
  Window windows;
  Product again;  // q, k and v from x; without a place to write to where they were kept
  Attention attention;
  GroupConvolution convolution;
  Product back;  // without a place to write to where the input's gradient is not wanted
  Sums sums;
  float *kept, *grad_projected;
  const float *x, *grad;
  std::vector<float> of_kernels;  // of some images
  std::vector<float> rates;       // [B, N]

  // Some images from `first` on.
  void operator()(const Kernels& set, int64_t first, int64_t images) {
    Sizes s = whole;
    s.batch = images;
    const int64_t image = 3 * s.channels() * s.pixels();
    const float* const from = x + first * s.in_channels * s.pixels();
    float* projected = kept + first * image;
    if (again.out != nullptr) {
      Product p = again;
      p.images = images, p.x = from, projected = kept;
      in_parallel(p, set.product_units(p), set.multiply);
    }
    float* const given = const_cast<float*>(grad) + first * s.channels() * s.outputs();
    if (windows.attention > 0) attend_back(set, s, first, projected, given);
    if (windows.convolution > 0) convolve_back(set, s, first, projected, given);
    if (back.out != nullptr) {
      Product p = back;
      p.images = images, p.out += first * p.out_image;
      in_parallel(p, set.product_units(p), set.multiply);
    }
    RowProducts p{};
    p.images = images, p.left_rows = 3 * s.channels(), p.right_rows = s.in_channels, p.pixels = s.pixels();
    p.left = grad_projected, p.left_image = image, p.right = from, p.right_image = s.in_channels * s.pixels();
    for (int i = 0; i < 3; ++i) p.parts[i] = sums.projections[i];
    p.part_rows = s.channels(), p.sums = sums.bias, p.adds = first > 0;
    in_parallel(p, set.row_product_units(p), set.multiply_rows);
  }

 private:
  void attend_back(const Kernels& set, const Sizes& s, int64_t first, float* projected, float* given) {
    Attention a = attention;
    a.batch = s.batch, a.q = part(s, projected, 0), a.k = part(s, projected, 1), a.v = part(s, projected, 2);
    a.grad = by_heads(s, given);
    a.grad_q = part(s, grad_projected, 0), a.grad_k = part(s, grad_projected, 1), a.grad_v = part(s, grad_projected, 2);
    a.grad_rate = rates.empty() ? nullptr : rates.data() + first * s.heads;
    a.fills = true;
    in_parallel(a, set.attention_backward_units(a), set.attention_backward);
    if (sums.position != nullptr) sum_position(s, static_cast<const float*>(a.grad_k.data), first > 0, sums.position);
  }

  void convolve_back(const Kernels& set, const Sizes& s, int64_t first, float* projected, float* given) {
    GroupConvolution c = convolution;
    c.batch = s.batch, c.x = pieces(s, projected), c.grad = by_groups(s, given), c.grad_x = pieces(s, grad_projected);
    c.grad_weight = of_kernels.data();
    in_parallel(c, set.convolution_backward_units(c), set.convolution_backward);
    torch::stable::parallel_for(0, static_cast<int64_t>(of_kernels.size()), 16384, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sums.kernels[i] = of_kernels[i] + (first > 0 ? sums.kernels[i] : 0.0f);
    });
  }
};

// The gradients of all inputs, as many images at a time as `grad_projected` holds. `projected` is what the forward pass
// kept, or memory of the same size as that one, to which q, k and v are computed again.
void layer_backward(const Tensor grad, const Tensor x, const Tensor query, const Tensor key, const Tensor value,
                    const std::optional<Tensor> bias, const std::optional<Tensor> position, const std::optional<Tensor> fc,
                    const std::optional<Tensor> shift, const std::optional<Tensor> rate, Tensor projected, bool kept,
                    Tensor grad_projected, const std::optional<Tensor> grad_x, Tensor grad_query, Tensor grad_key, Tensor grad_value,
                    const std::optional<Tensor> grad_bias, const std::optional<Tensor> grad_position, const std::optional<Tensor> grad_fc,
                    const std::optional<Tensor> grad_shift, const std::optional<Tensor> grad_rate, int64_t heads, int64_t window,
                    int64_t stride, int64_t dilation, double scale) {
  Sizes whole = sizes_of(x, grad, heads);
  const int64_t channels = whole.channels(), images = grad_projected.size(0), image = 3 * channels * whole.pixels();
  require(grad, "grad", whole.batch * channels * whole.outputs());
  require(projected, "projected", (kept ? whole.batch : images) * image);
  require(grad_projected, "grad_projected", images * image);
  if (grad_x.has_value()) require(*grad_x, "grad_x", x.numel());
  Tensor* const projections[] = {&grad_query, &grad_key, &grad_value};
  for (const Tensor* of : projections) require(*of, "a projection's gradient", channels * whole.in_channels);
  if (grad_bias.has_value()) require(*grad_bias, "grad_bias", 3 * channels);
  if (grad_position.has_value()) require(*grad_position, "grad_position", whole.width * whole.pixels());
  if (grad_rate.has_value()) require(*grad_rate, "grad_rate", 1);

  const Kernels& set = acmix::kernels();
  const Window windows{window, shift.has_value() ? shift->size(3) : 0, stride, dilation};
  const std::unique_ptr<float[]> kernels = composed(fc, shift);
  const int64_t kernels_size = shift.has_value() ? channels * fc->size(1) * windows.convolution * windows.convolution : 0;
  std::vector<float> grad_kernels(kernels_size);
  Product again = projection_of(whole, x, query, key, value, bias, projected);
  if (kept) again.out = nullptr;
  Product back = back_projection_of(whole, query, key, value, data(grad_projected), data(grad_x));
  const std::unique_ptr<float[]> panels = grad_x.has_value() ? arranged(set, back) : nullptr;
  const Sums sums{{data(grad_query), data(grad_key), data(grad_value)}, data(grad_bias), data(grad_position), grad_kernels.data()};
  Backward backward{whole, windows, again, attention_of(whole, windows, scale, position, rate, data(projected)),
                    convolution_of(whole, windows, kernels.get(), data(projected)), back, sums, data(projected),
                    data(grad_projected), data(x), data(grad), std::vector<float>(kernels_size),
                    std::vector<float>(grad_rate.has_value() && window > 0 ? whole.batch * heads : 0)};
  for (int64_t first = 0; first < whole.batch; first += images) backward(set, first, std::min(images, whole.batch - first));
  if (grad_fc.has_value() && grad_shift.has_value()) {
    require(*grad_fc, "grad_fc", fc->numel());
    require(*grad_shift, "grad_shift", shift->numel());
    pull_back(*fc, *shift, grad_kernels.data(), data(grad_fc), data(grad_shift));
  }
  if (grad_rate.has_value()) {
    double total = 0;
    for (const float of_head : backward.rates) total += of_head;
    *data(grad_rate) = static_cast<float>(total);
  }
}

}  // namespace
}  // namespace acmix

STABLE_TORCH_LIBRARY_FRAGMENT(acmix_cpu, m) {
  m.def("layer_backward(Tensor grad, Tensor x, Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? position, "
        "Tensor? fc, Tensor? shift, Tensor? rate, Tensor(a!) projected, bool kept, Tensor(b!) grad_projected, Tensor(c!)? grad_x, "
        "Tensor(d!) grad_query, Tensor(e!) grad_key, Tensor(f!) grad_value, Tensor(g!)? grad_bias, Tensor(h!)? grad_position, "
        "Tensor(i!)? grad_fc, Tensor(j!)? grad_shift, Tensor(k!)? grad_rate, int heads, int window, int stride, int dilation, "
        "float scale) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(acmix_cpu, CPU, m) { m.impl("layer_backward", TORCH_BOX(&acmix::layer_backward)); }
