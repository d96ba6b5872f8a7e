// The whole layer in float32, projections included: what one stage writes, the next one finds in the cache, and the two
// paths write and read the same memory.
#include <algorithm>
#include <cstring>

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
  int64_t capacity, map;  // rows of a map that `projected` holds, and entries

  // Some images from `first` on; q, k and v go to `projected`.
  void operator()(const Kernels& set, const Crew& crew, int64_t first, int64_t images, float* projected) const {
    if (capacity < whole.height) return in_strips(set, crew, first, projected);
    project(set, crew, first, images, 0, whole.height, projected);
    aggregate(set, crew, first, images, 0, whole.out_height, projected);
  }

 private:
  // One image, as many rows at a time as there is room for; the rows that the next ones see as well move to the front.
  void in_strips(const Kernels& set, const Crew& crew, int64_t image, float* projected) const {
    const int64_t halo = std::max(windows.attention, windows.convolution) / 2 * windows.dilation, stride = windows.stride;
    int64_t first = 0, last = 0;  // the rows that are there
    for (int64_t top = 0, bottom; top < whole.out_height; top = bottom) {
      const int64_t from = std::max<int64_t>(0, top * stride - halo);
      bottom = std::min(whole.out_height, (from + capacity - 1 - halo) / stride + 1);
      if (from + capacity >= whole.height) bottom = whole.out_height;
      else if (bottom - top > 1) bottom -= bottom % 2;  // kernels take rows in pairs
      const int64_t to = std::min(whole.height, (bottom - 1) * stride + halo + 1);
      if (from > first) move_rows(crew, from - first, last - from, projected);
      float* const base = projected - from * whole.columns;  // where the map's first row would stand
      const int64_t begin = std::max(from, last);  // a stride may leave rows out
      if (to > begin) project(set, crew, image, 1, begin, to, base);
      first = from, last = std::max(last, to);
      aggregate(set, crew, image, 1, top, bottom, base);
    }
  }

  void move_rows(const Crew& crew, int64_t by, int64_t rows, float* projected) const {
    const auto move = [&](int64_t first, int64_t last) {
      for (int64_t plane = first; plane < last && rows > 0; ++plane) {
        float* const to = projected + plane * map;
        std::memmove(to, to + by * whole.columns, rows * whole.columns * sizeof(float));
      }
    };
    if (crew.is_all()) torch::stable::parallel_for(0, 3 * whole.channels(), 8, move);
    else move(0, 3 * whole.channels());
  }

  // Stage I on rows top..bottom of the map.
  void project(const Kernels& set, const Crew& crew, int64_t first, int64_t images, int64_t top, int64_t bottom, float* projected) const {
    Product p = product;
    p.images = images, p.pixels = (bottom - top) * whole.columns;
    p.x += first * p.x_image + top * whole.columns;
    p.out = projected + top * whole.columns, p.out_image = 3 * whole.channels() * map, p.out_row = map;
    crew.run(p, set.product_units(p), set.multiply);
  }

  // Both paths, on rows top..bottom of the output.
  void aggregate(const Kernels& set, const Crew& crew, int64_t first, int64_t images, int64_t top, int64_t bottom, float* projected) const {
    Sizes s = whole;
    s.batch = images;
    float* const to = out + first * s.channels() * s.outputs();
    if (windows.attention > 0) {
      Attention a = attention;
      a.batch = images, a.top = top, a.bottom = bottom, a.out = by_heads(s, to);
      a.q = part(s, projected, 0, map), a.k = part(s, projected, 1, map), a.v = part(s, projected, 2, map);
      crew.run(a, set.attention_forward_units(a), set.attention_forward);
    }
    if (windows.convolution > 0) {
      GroupConvolution c = convolution;
      c.batch = images, c.top = top, c.bottom = bottom, c.x = pieces(s, projected, map), c.out = by_groups(s, to);
      crew.run(c, set.convolution_forward_units(c), set.convolution_forward);
    }
  }
};

// `together` images at a time. With `threads` > 1 so many go through all stages of images of their own: what a thread writes is
// in its own cache when it reads it. `projected` is memory for q, k and v of the whole batch, or of what all threads with images
// need at a time, which is then used again and again: `capacity` rows of each map, more or fewer than it has.
// `code` is memory for the position code, if it is needed as a map.
void layer_forward(const Tensor x, const Tensor query, const Tensor key, const Tensor value,
                   const std::optional<Tensor> query_bias, const std::optional<Tensor> key_bias, const std::optional<Tensor> value_bias,
                   const std::optional<Tensor> position_weight, const std::optional<Tensor> position_bias,
                   const std::optional<Tensor> grid, const std::optional<Tensor> fc, const std::optional<Tensor> fc_rate,
                   const std::optional<Tensor> shift, const std::optional<Tensor> rate, Tensor out, Tensor projected, Tensor code,
                   int64_t capacity, int64_t heads, int64_t window, int64_t stride, int64_t dilation, double scale,
                   int64_t threads, int64_t together) {
  const Sizes whole = sizes_of(x, out, heads);
  const int64_t batch = whole.batch;
  require(out, "out", batch * whole.channels() * whole.outputs());
  require(projected, "projected", projected.numel());
  const Kernels& set = acmix::kernels();
  const Window windows{window, shift.has_value() ? shift->size(3) : 0, stride, dilation};
  const Parameters parameters{query_bias, key_bias, value_bias, position_weight, position_bias, grid, fc, fc_rate, shift, rate};
  const std::vector<float> biases = joined_biases(whole, parameters);
  const std::vector<float> scaled = scaled_mix(parameters);
  Mixing mixing = mixing_of(whole, parameters, scaled);
  const std::unique_ptr<float[]> kernels = composed(set, mixing);

  Attention attention = attention_of(whole, windows, scale, rate, data(projected));
  attention.out = by_heads(whole, data(out));
  const std::vector<float> down = add_code(set, whole, parameters, code, attention);

  const int64_t map = capacity * whole.columns, image = 3 * whole.channels() * map, held = projected.numel() / image;
  float* const kept = data(projected);
  Product p = projection_of(whole, x, query, key, value, biases, kept);
  const std::unique_ptr<float[]> panels = arranged(set, p);
  const Forward forward{whole, windows, p, attention, convolution_of(whole, windows, kernels.get(), kept), data(out), capacity, map};
  const bool keeps = held >= batch && capacity >= whole.height;
  const int64_t reach = std::max(windows.attention, windows.convolution) / 2 * dilation;
  STD_TORCH_CHECK(capacity >= whole.height || (together == 1 && capacity > 2 * reach), "acmix_cpu: too few rows in projected");
  const int64_t slots = keeps ? batch : std::min(threads, (batch + together - 1) / together) * together;
  STD_TORCH_CHECK(held >= slots, "acmix_cpu: too few images in projected");
  const auto images_from = [&](const Crew& crew, int64_t number, int64_t first) {
    forward(set, crew, first, std::min(together, batch - first), kept + (keeps ? first : number * together) * image);
  };
  if (threads > 1) return by_images(threads, batch, together, images_from);
  for (int64_t first = 0; first < batch; first += together) images_from(Crew(), 0, first);
}

}  // namespace
}  // namespace acmix

STABLE_TORCH_LIBRARY_FRAGMENT(acmix_cpu, m) {
  m.def("layer_forward(Tensor x, Tensor query, Tensor key, Tensor value, Tensor? query_bias, Tensor? key_bias, "
        "Tensor? value_bias, Tensor? position_weight, Tensor? position_bias, Tensor? grid, Tensor? fc, Tensor? fc_rate, "
        "Tensor? shift, Tensor? rate, Tensor(a!) out, Tensor(b!) projected, Tensor(c!) code, int rows, int heads, "
        "int window, int stride, int dilation, "
        "float scale, int threads, int together) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(acmix_cpu, CPU, m) { m.impl("layer_forward", TORCH_BOX(&acmix::layer_forward)); }
