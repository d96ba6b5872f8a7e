// The whole layer in float32, projections included: what one stage writes, the next one finds in the cache, and the two
// paths write and read the same memory. Maps are dense [B, C, H, W]; `projected` is [B, 3, N, D, H, W].
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

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
  m.def("layer_forward(Tensor x, Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? position, Tensor? fc, "
        "Tensor? shift, Tensor? rate, Tensor(a!) out, Tensor(b!) projected, int heads, int window, int stride, int dilation, "
        "float scale, int chunks, int together) -> ()");
  m.def("layer_backward(Tensor grad, Tensor x, Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? position, "
        "Tensor? fc, Tensor? shift, Tensor? rate, Tensor(a!) projected, bool kept, Tensor(b!) grad_projected, Tensor(c!)? grad_x, "
        "Tensor(d!) grad_query, Tensor(e!) grad_key, Tensor(f!) grad_value, Tensor(g!)? grad_bias, Tensor(h!)? grad_position, "
        "Tensor(i!)? grad_fc, Tensor(j!)? grad_shift, Tensor(k!)? grad_rate, int heads, int window, int stride, int dilation, "
        "float scale) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(acmix_cpu, CPU, m) {
  m.impl("layer_forward", TORCH_BOX(&acmix::layer_forward));
  m.impl("layer_backward", TORCH_BOX(&acmix::layer_backward));
}
