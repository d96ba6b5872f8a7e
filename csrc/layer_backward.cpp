// The gradients of the whole layer in float32, some images at a time.
#include <algorithm>
#include <cstring>
#include <vector>

#include "layer_parts.h"

namespace acmix {
namespace {

constexpr int64_t kRound = 64;  // images whose sums are there at a time, where each has its own

// Adds up parts one behind the other, `step` entries from each to the next, in their order; `adds` to what stands in `to`.
void sum_parts(const float* parts, int64_t number, int64_t step, int64_t count, bool adds, float* to) {
  torch::stable::parallel_for(0, count, 16384, [&](int64_t first, int64_t last) {
    if (!adds) std::memset(to + first, 0, (last - first) * sizeof(float));
    for (int64_t part = 0; part < number; ++part) {
      const float* const from = parts + part * step;
      for (int64_t i = first; i < last; ++i) to[i] += from[i];
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

// What sums over images are written to; `bias` is null where it is not wanted.
struct Sums {
  float *projections[3], *bias, *kernels;
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
  int64_t turned_step;  // entries for each image
  const float *x, *grad;
  int64_t kernels_size;       // 0 without the convolution path
  const float* grid;          // null where the position's gradients are not wanted
  std::vector<float> rates;   // [B, N]
  std::vector<double> grids;  // [B, N, D, 3], of the keys' gradients

  int64_t image() const { return 3 * whole.channels() * whole.pixels(); }

  // Images first..first + count, each stage by all threads.
  void together(const Kernels& set, int64_t first, int64_t count) {
    const std::unique_ptr<float[]> parts(new float[kernels_size]);
    stages(set, Crew(), first, 0, count, parts.get());
    sum_projections(set, Crew(), first, 0, count, sums, first > 0);
    sum_parts(parts.get(), 1, kernels_size, kernels_size, first > 0, sums.kernels);
  }

  // The same, each with sums of its own, which are added up in the images' order. With a slot for every thread that finds an
  // image, one thread does all stages of it: what it writes is in its own cache when it reads it. Else all threads share each.
  // The only image's are the whole batch's.
  void one_by_one(const Kernels& set, int64_t first, int64_t count, int64_t threads, int64_t slots) {
    const bool alone = whole.batch == 1;
    const int64_t weight = whole.channels() * whole.in_channels, biases = sums.bias == nullptr ? 0 : 3 * whole.channels();
    const int64_t size = 3 * weight + biases + kernels_size;
    const std::unique_ptr<float[]> parts(new float[alone ? 0 : count * size]);
    const auto sums_at = [&](float* to) {
      return Sums{{to, to + weight, to + 2 * weight}, biases == 0 ? nullptr : to + 3 * weight, to + 3 * weight + biases};
    };
    const auto of_image = [&](const Crew& crew, int64_t slot, int64_t i) {
      const Sums own = alone ? sums : sums_at(parts.get() + i * size);
      stages(set, crew, first + i, slot, 1, own.kernels);
      sum_projections(set, crew, first + i, slot, 1, own, false);
    };
    if (threads > 1 && slots >= std::min(threads, count)) {
      by_images(threads, count, 1, of_image);
    } else {
      for (int64_t i = 0; i < count; ++i) of_image(Crew(), 0, i);
    }
    if (alone) return;
    const Sums from = sums_at(parts.get());
    const auto add_up = [&](const float* part, int64_t entries, float* to) { sum_parts(part, count, size, entries, first > 0, to); };
    for (int i = 0; i < 3; ++i) add_up(from.projections[i], weight, sums.projections[i]);
    if (biases > 0) add_up(from.bias, biases, sums.bias);
    add_up(from.kernels, kernels_size, sums.kernels);
  }

 private:
  // All but the sums over images, of `count` images from `first` on; `slot` is the first one's place in scratch memory.
  void stages(const Kernels& set, const Crew& crew, int64_t first, int64_t slot, int64_t count, float* grad_kernels) {
    Sizes s = whole;
    s.batch = count;
    float* const projected = kept + (again.out == nullptr ? first : slot) * image();
    float* const grads = grad_projected + slot * image();
    if (again.out != nullptr) {
      Product p = again;
      p.images = count, p.x += first * p.x_image, p.out = projected;
      crew.run(p, set.product_units(p), set.multiply);
    }
    float* const given = const_cast<float*>(grad) + first * s.channels() * s.outputs();
    if (windows.attention > 0) {
      Attention a = attention;
      a.batch = count, a.q = part(s, projected, 0), a.k = part(s, projected, 1), a.v = part(s, projected, 2);
      a.grad = by_heads(s, given), a.fills = true;
      a.grad_q = part(s, grads, 0), a.grad_k = part(s, grads, 1), a.grad_v = part(s, grads, 2);
      a.grad_rate = rates.empty() ? nullptr : rates.data() + first * s.heads;
      crew.run(a, set.attention_backward_units(a), set.attention_backward);
      for (int64_t b = 0; b < count && grid != nullptr; ++b) {
        const GridSums g{s.pixels(), static_cast<const float*>(a.grad_k.data) + b * image(), grid,
                         grids.data() + (first + b) * s.channels() * 3};
        crew.run(g, s.channels(), set.sum_over_grid);
      }
    }
    if (windows.convolution > 0) {
      GroupConvolution c = convolution;
      c.batch = count, c.x = pieces(s, projected), c.grad = by_groups(s, given), c.grad_x = pieces(s, grads);
      c.grad_weight = grad_kernels;
      crew.run(c, set.convolution_backward_units(c), set.convolution_backward);
    }
    if (back.out == nullptr) return;
    Product p = back;
    p.images = count, p.x = grads, p.out += first * p.out_image;
    crew.run(p, set.product_units(p), set.multiply);
  }

  // As many pixels at a time as there is memory to turn x.
  void sum_projections(const Kernels& set, const Crew& crew, int64_t first, int64_t slot, int64_t count, const Sums& to,
                       bool adds) const {
    const int64_t map = whole.in_channels * whole.pixels();
    RowProducts p{};
    p.images = count, p.left_rows = 3 * whole.channels(), p.right_rows = whole.in_channels, p.row = whole.pixels();
    p.left = grad_projected + slot * image(), p.left_image = image(), p.right = x + first * map, p.right_image = map;
    for (int i = 0; i < 3; ++i) p.parts[i] = to.projections[i];
    p.part_rows = whole.channels(), p.sums = to.bias, p.adds = adds, p.turned = turned + slot * turned_step;
    p.pixels = 1;
    const int64_t most = count * turned_step / set.turned_size(p);
    STD_TORCH_CHECK(most > 0, "acmix_cpu: too little memory in turned");
    for (int64_t pixel = 0; pixel < whole.pixels(); pixel += p.pixels, p.adds = true) {
      p.pixels = std::min(most, whole.pixels() - pixel);
      crew.run(p, set.turn_units(p), set.turn_rows);
      crew.run(p, set.row_product_units(p), set.multiply_rows);
      p.left += p.pixels, p.right += p.pixels;
    }
  }
};

// Where the gradients of the parameters beside the projections' weights go.
struct ParameterGradients {
  const std::optional<Tensor> &query_bias, &key_bias, &value_bias, &position_weight, &position_bias, &fc, &fc_rate, &shift, &rate;
};

// Of sums over all images: keys have the position code subtracted.
void position_gradients(const Sizes& s, const std::vector<double>& grids, float* weight, float* bias) {
  for (int64_t d = 0; d < s.width; ++d) {
    double totals[3]{};
    for (int64_t plane = d; plane < s.batch * s.channels(); plane += s.width) {
      for (int64_t k = 0; k < 3; ++k) totals[k] -= grids[plane * 3 + k];
    }
    weight[2 * d] = static_cast<float>(totals[0]), weight[2 * d + 1] = static_cast<float>(totals[1]);
    bias[d] = static_cast<float>(totals[2]);
  }
}

// From the gradient of the FC's weight times the rate to those of both, in place.
void rate_gradient(const Tensor& fc, const Tensor& rate, float* grad_fc, float* grad_rate) {
  double total = 0;
  for (int64_t i = 0; i < fc.numel(); ++i) {
    total += static_cast<double>(grad_fc[i]) * data(fc)[i];
    grad_fc[i] *= *data(rate);
  }
  *grad_rate = static_cast<float>(total);
}

void write_gradients(const Kernels& set, const Backward& backward, const Parameters& of, Mixing mixing,
                     const std::vector<float>& biases, const ParameterGradients& to) {
  const Sizes& s = backward.whole;
  const std::optional<Tensor>* const grads[] = {&to.query_bias, &to.key_bias, &to.value_bias};
  for (int64_t i = 0; i < 3 && !biases.empty(); ++i) {
    STD_TORCH_CHECK(grads[i]->has_value(), "acmix_cpu: a bias has no gradient");
    require(**grads[i], "a bias's gradient", s.channels());
    std::memcpy(data(*grads[i]), biases.data() + i * s.channels(), s.channels() * sizeof(float));
  }
  if (backward.grid != nullptr) {
    STD_TORCH_CHECK(to.position_weight.has_value() && to.position_bias.has_value(), "acmix_cpu: the position has no gradients");
    require(*to.position_weight, "grad_position_weight", 2 * s.width);
    require(*to.position_bias, "grad_position_bias", s.width);
    position_gradients(s, backward.grids, data(to.position_weight), data(to.position_bias));
  }
  if (to.fc.has_value() && to.shift.has_value()) {
    require(*to.fc, "grad_fc", of.fc->numel());
    require(*to.shift, "grad_shift", of.shift->numel());
    mixing.grad_mix = data(to.fc), mixing.grad_shifts = data(to.shift);
    in_parallel(mixing, mixing.maps, set.pull_back_mix);
    torch::stable::parallel_for(0, mixing.channels, kChannels,
                                [&](int64_t first, int64_t last) { set.pull_back_shifts(mixing, first, last); });
    if (to.fc_rate.has_value()) {
      require(*to.fc_rate, "grad_fc_rate", 1);
      rate_gradient(*of.fc, *of.fc_rate, data(to.fc), data(to.fc_rate));
    }
  }
  if (to.rate.has_value()) {
    double total = 0;
    for (const float of_head : backward.rates) total += of_head;
    *data(to.rate) = static_cast<float>(total);
  }
}

// The gradients of all inputs, as many images at a time as `grad_projected` holds. `apart`: each image has sums of its own, and
// one thread does all of it where `grad_projected` holds an image for every thread that finds one. `projected` is what the
// forward pass kept, or memory of the same size as that one, to which q, k and v are computed again; `turned` is memory for
// some pixels of as many images of x, turned, and may be that same one; `code` for the position code, if it is needed as a map.
void layer_backward(const Tensor grad, const Tensor x, const Tensor query, const Tensor key, const Tensor value,
                    const std::optional<Tensor> query_bias, const std::optional<Tensor> key_bias, const std::optional<Tensor> value_bias,
                    const std::optional<Tensor> position_weight, const std::optional<Tensor> position_bias,
                    const std::optional<Tensor> grid, const std::optional<Tensor> fc, const std::optional<Tensor> fc_rate,
                    const std::optional<Tensor> shift, const std::optional<Tensor> rate, Tensor projected, bool kept,
                    Tensor grad_projected, Tensor turned, Tensor code, const std::optional<Tensor> grad_x, Tensor grad_query,
                    Tensor grad_key, Tensor grad_value, const std::optional<Tensor> grad_query_bias,
                    const std::optional<Tensor> grad_key_bias, const std::optional<Tensor> grad_value_bias,
                    const std::optional<Tensor> grad_position_weight, const std::optional<Tensor> grad_position_bias,
                    const std::optional<Tensor> grad_fc, const std::optional<Tensor> grad_fc_rate, const std::optional<Tensor> grad_shift,
                    const std::optional<Tensor> grad_rate, int64_t heads, int64_t window, int64_t stride, int64_t dilation,
                    double scale, int64_t threads, bool apart) {
  Sizes whole = sizes_of(x, grad, heads);
  const int64_t channels = whole.channels(), images = grad_projected.size(0), image = 3 * channels * whole.pixels();
  require(grad, "grad", whole.batch * channels * whole.outputs());
  require(projected, "projected", (kept ? whole.batch : images) * image);
  require(grad_projected, "grad_projected", images * image);
  STD_TORCH_CHECK(turned.scalar_type() == ScalarType::Float && turned.is_contiguous(), "acmix_cpu: turned is not dense float32");
  if (grad_x.has_value()) require(*grad_x, "grad_x", x.numel());
  Tensor* const projections[] = {&grad_query, &grad_key, &grad_value};
  for (const Tensor* of : projections) require(*of, "a projection's gradient", channels * whole.in_channels);
  if (grad_rate.has_value()) require(*grad_rate, "grad_rate", 1);

  const Kernels& set = acmix::kernels();
  const Window windows{window, shift.has_value() ? shift->size(3) : 0, stride, dilation};
  const Parameters parameters{query_bias, key_bias, value_bias, position_weight, position_bias, grid, fc, fc_rate, shift, rate};
  const std::vector<float> biases = joined_biases(whole, parameters), scaled = scaled_mix(parameters);
  Mixing mixing = mixing_of(whole, parameters, scaled);
  const std::unique_ptr<float[]> kernels = composed(set, mixing);
  const int64_t kernels_size = mixing.channels * mixing.pieces * mixing.maps;
  std::vector<float> grad_kernels(kernels_size), grad_biases(biases.size());
  Product again = projection_of(whole, x, query, key, value, biases, data(projected));
  if (kept) again.out = nullptr;
  const std::unique_ptr<float[]> panels_again = kept ? nullptr : arranged(set, again);
  Product back = back_projection_of(whole, query, key, value, data(grad_projected), data(grad_x));
  const std::unique_ptr<float[]> panels = grad_x.has_value() ? arranged(set, back) : nullptr;
  const Sums sums{{data(grad_query), data(grad_key), data(grad_value)}, grad_biases.empty() ? nullptr : grad_biases.data(),
                  grad_kernels.data()};
  Attention attention = attention_of(whole, windows, scale, rate, data(projected));
  attention.out = by_heads(whole, data(grad));
  const std::vector<float> down = add_code(set, whole, parameters, code, attention);
  const bool attends = window > 0, places = attends && has_code(whole, parameters);
  Backward backward{whole, windows, again, attention,
                    convolution_of(whole, windows, kernels.get(), data(projected)), back, sums, data(projected),
                    data(grad_projected), data(turned), turned.numel() / images, data(x), data(grad), kernels_size,
                    places ? data(grid) : nullptr, std::vector<float>(grad_rate.has_value() && attends ? whole.batch * heads : 0),
                    std::vector<double>(places ? whole.batch * channels * 3 : 0)};
  const int64_t round = apart ? kRound : images;
  for (int64_t first = 0; first < whole.batch; first += round) {
    const int64_t count = std::min(round, whole.batch - first);
    if (apart) backward.one_by_one(set, first, count, threads, images);
    else backward.together(set, first, count);
  }
  const ParameterGradients grads{grad_query_bias, grad_key_bias, grad_value_bias, grad_position_weight, grad_position_bias,
                                 grad_fc, grad_fc_rate, grad_shift, grad_rate};
  mixing.grad_kernels = grad_kernels.data();
  write_gradients(set, backward, parameters, mixing, grad_biases, grads);
}

}  // namespace
}  // namespace acmix

STABLE_TORCH_LIBRARY_FRAGMENT(acmix_cpu, m) {
  m.def("layer_backward(Tensor grad, Tensor x, Tensor query, Tensor key, Tensor value, Tensor? query_bias, Tensor? key_bias, "
        "Tensor? value_bias, Tensor? position_weight, Tensor? position_bias, Tensor? grid, Tensor? fc, Tensor? fc_rate, "
        "Tensor? shift, Tensor? rate, Tensor(a!) projected, bool kept, Tensor(b!) grad_projected, Tensor(c!) turned, "
        "Tensor(d!) code, Tensor(e!)? grad_x, Tensor(f!) grad_query, Tensor(g!) grad_key, Tensor(h!) grad_value, "
        "Tensor(i!)? grad_query_bias, Tensor(j!)? grad_key_bias, Tensor(k!)? grad_value_bias, Tensor(l!)? grad_position_weight, "
        "Tensor(m!)? grad_position_bias, Tensor(n!)? grad_fc, Tensor(o!)? grad_fc_rate, Tensor(p!)? grad_shift, "
        "Tensor(q!)? grad_rate, int heads, int window, int stride, int dilation, float scale, int threads, bool apart) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(acmix_cpu, CPU, m) { m.impl("layer_backward", TORCH_BOX(&acmix::layer_backward)); }
