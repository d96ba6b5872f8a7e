// The gradients of the whole layer in float32, some images at a time.
#include <cstring>
#include <vector>

#include "layer_parts.h"

namespace acmix {
namespace {

// From so many bytes of q, k and v on each image has sums of its own, which are added up in their order: threads can then
// take images of their own. Of smaller ones all that are computed at a time share their sums.
constexpr int64_t kApart = int64_t{1} << 20;
constexpr int64_t kEven = 4;  // images for each thread from which on an uneven rest is small

// The position's gradient [D, H, W] of some images: their keys' over heads, with the sign turned.
void sum_position(const Sizes& s, bool shared, const float* grad_keys, float* to) {
  const int64_t map = s.width * s.pixels(), image = 3 * s.channels() * s.pixels();
  const auto sum = [&](int64_t first, int64_t last) {
    std::memset(to + first, 0, (last - first) * sizeof(float));
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t n = 0; n < s.heads; ++n) {
        const float* from = grad_keys + b * image + n * map;
        for (int64_t i = first; i < last; ++i) to[i] -= from[i];
      }
    }
  };
  if (shared) torch::stable::parallel_for(0, map, 4096, sum);
  else sum(0, map);
}

// Sums of `count` entries over parts one behind the other; `adds` to what stands in `to`.
void sum_parts(const std::vector<float>& parts, int64_t number, int64_t count, bool adds, float* to) {
  torch::stable::parallel_for(0, count, 16384, [&](int64_t first, int64_t last) {
    if (!adds) std::memset(to + first, 0, (last - first) * sizeof(float));
    for (int64_t part = 0; part < number; ++part) {
      const float* from = parts.data() + part * count;
      for (int64_t i = first; i < last; ++i) to[i] += from[i];
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
  float *kept, *grad_projected, *turned;
  int64_t turned_entries;
  const float *x, *grad;
  int64_t kernels_size, position_size;    // 0 where these gradients are not wanted
  std::vector<float> kernels, positions;  // shares of the sums, one behind the other
  std::vector<float> rates;               // [B, N]

  int64_t image() const { return 3 * whole.channels() * whole.pixels(); }

  // Images first..first + images; each stage by all threads, or all stages of an image by one.
  void operator()(const Kernels& set, int64_t first, int64_t images, int64_t threads) {
    const bool apart = image() * static_cast<int64_t>(sizeof(float)) >= kApart;
    const int64_t parts = apart ? images : 1;
    kernels.resize(parts * kernels_size), positions.resize(parts * position_size);
    if (!apart) {
      stages(set, true, first, 0, images);
    } else if (threads > 1 && (images % threads == 0 || images >= kEven * threads)) {
      torch::stable::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) stages(set, false, first, i, 1);
      });
    } else {
      for (int64_t i = 0; i < images; ++i) stages(set, true, first, i, 1);
    }
    sum_parts(kernels, parts, kernels_size, first > 0, sums.kernels);
    sum_parts(positions, parts, position_size, first > 0, sums.position);
    sum_projections(set, first, images);
  }

 private:
  // All but the sums over images, of `count` images from the one on that is `offset` behind `first`.
  void stages(const Kernels& set, bool shared, int64_t first, int64_t offset, int64_t count) {
    Sizes s = whole;
    s.batch = count;
    float* projected = kept + (again.out == nullptr ? first + offset : offset) * image();
    float* const grads = grad_projected + offset * image();
    if (again.out != nullptr) {
      Product p = again;
      p.images = count, p.x += (first + offset) * p.x_image, p.out = projected;
      run(shared, p, set.product_units(p), set.multiply);
    }
    float* const given = const_cast<float*>(grad) + (first + offset) * s.channels() * s.outputs();
    if (windows.attention > 0) {
      Attention a = attention;
      a.batch = count, a.q = part(s, projected, 0), a.k = part(s, projected, 1), a.v = part(s, projected, 2);
      a.grad = by_heads(s, given), a.fills = true;
      a.grad_q = part(s, grads, 0), a.grad_k = part(s, grads, 1), a.grad_v = part(s, grads, 2);
      a.grad_rate = rates.empty() ? nullptr : rates.data() + (first + offset) * s.heads;
      run(shared, a, set.attention_backward_units(a), set.attention_backward);
      float* const position = positions.data() + offset * position_size;
      if (position_size > 0) sum_position(s, shared, static_cast<const float*>(a.grad_k.data), position);
    }
    if (windows.convolution > 0) {
      GroupConvolution c = convolution;
      c.batch = count, c.x = pieces(s, projected), c.grad = by_groups(s, given), c.grad_x = pieces(s, grads);
      c.grad_weight = kernels.data() + offset * kernels_size;
      run(shared, c, set.convolution_backward_units(c), set.convolution_backward);
    }
    if (back.out == nullptr) return;
    Product p = back;
    p.images = count, p.x = grads, p.out += (first + offset) * p.out_image;
    run(shared, p, set.product_units(p), set.multiply);
  }

  void sum_projections(const Kernels& set, int64_t first, int64_t images) {
    const int64_t map = whole.in_channels * whole.pixels();
    RowProducts p{};
    p.images = images, p.left_rows = 3 * whole.channels(), p.right_rows = whole.in_channels, p.pixels = whole.pixels();
    p.left = grad_projected, p.left_image = image(), p.right = x + first * map, p.right_image = map;
    for (int i = 0; i < 3; ++i) p.parts[i] = sums.projections[i];
    p.part_rows = whole.channels(), p.sums = sums.bias, p.adds = first > 0;
    p.turned = turned;
    STD_TORCH_CHECK(turned_entries >= set.turned_size(p), "acmix_cpu: too little memory in turned");
    in_parallel(p, set.turn_units(p), set.turn_rows);
    in_parallel(p, set.row_product_units(p), set.multiply_rows);
  }
};

// The gradients of all inputs, as many images at a time as `grad_projected` holds. `projected` is what the forward pass
// kept, or memory of the same size as that one, to which q, k and v are computed again; `turned` is memory for as many images of x, turned, and may be that same one.
void layer_backward(const Tensor grad, const Tensor x, const Tensor query, const Tensor key, const Tensor value,
                    const std::optional<Tensor> bias, const std::optional<Tensor> position, const std::optional<Tensor> fc,
                    const std::optional<Tensor> shift, const std::optional<Tensor> rate, Tensor projected, bool kept,
                    Tensor grad_projected, Tensor turned, const std::optional<Tensor> grad_x, Tensor grad_query, Tensor grad_key, Tensor grad_value,
                    const std::optional<Tensor> grad_bias, const std::optional<Tensor> grad_position, const std::optional<Tensor> grad_fc,
                    const std::optional<Tensor> grad_shift, const std::optional<Tensor> grad_rate, int64_t heads, int64_t window,
                    int64_t stride, int64_t dilation, double scale, int64_t threads) {
  Sizes whole = sizes_of(x, grad, heads);
  const int64_t channels = whole.channels(), images = grad_projected.size(0), image = 3 * channels * whole.pixels();
  require(grad, "grad", whole.batch * channels * whole.outputs());
  require(projected, "projected", (kept ? whole.batch : images) * image);
  require(grad_projected, "grad_projected", images * image);
  STD_TORCH_CHECK(turned.scalar_type() == ScalarType::Float && turned.is_contiguous(), "acmix_cpu: turned is not dense float32");
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
                    data(grad_projected), data(turned), turned.numel(), data(x), data(grad), kernels_size,
                    window > 0 && grad_position.has_value() ? whole.width * whole.pixels() : 0, {}, {},
                    std::vector<float>(grad_rate.has_value() && window > 0 ? whole.batch * heads : 0)};
  for (int64_t first = 0; first < whole.batch; first += images) {
    backward(set, first, std::min(images, whole.batch - first), threads);
  }
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
        "Tensor? fc, Tensor? shift, Tensor? rate, Tensor(a!) projected, bool kept, Tensor(b!) grad_projected, Tensor(c!) turned, "
        "Tensor(d!)? grad_x, Tensor(e!) grad_query, Tensor(f!) grad_key, Tensor(g!) grad_value, Tensor(h!)? grad_bias, "
        "Tensor(i!)? grad_position, Tensor(j!)? grad_fc, Tensor(k!)? grad_shift, Tensor(l!)? grad_rate, int heads, int window, int stride, int dilation, "
        "float scale, int threads) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(acmix_cpu, CPU, m) { m.impl("layer_backward", TORCH_BOX(&acmix::layer_backward)); }
