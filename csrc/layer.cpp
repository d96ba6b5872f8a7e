// The whole layer in float32, projections included: what one stage writes, the next one finds in the cache, and the two
// paths write and read the same memory.
#include "layer_parts.h"

namespace acmix {
namespace {

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

}  // namespace
}  // namespace acmix

STABLE_TORCH_LIBRARY_FRAGMENT(acmix_cpu, m) {
  m.def("layer_forward(Tensor x, Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? position, Tensor? fc, "
        "Tensor? shift, Tensor? rate, Tensor(a!) out, Tensor(b!) projected, int heads, int window, int stride, int dilation, "
        "float scale, int chunks, int together) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(acmix_cpu, CPU, m) { m.impl("layer_forward", TORCH_BOX(&acmix::layer_forward)); }
