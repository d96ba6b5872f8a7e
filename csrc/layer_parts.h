// What the layer's two passes share: its sizes, and its parts as calls of the kernels. Maps are dense [B, C, H, W] of
// float32, and so is `projected`, [B, 3, N, D, H, W].
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include "crew.h"
#include "instruction_sets.h"
#include "torch_tensors.h"

namespace acmix {

struct Sizes {
  int64_t batch, in_channels, heads, width, height, columns, out_height, out_columns;

  int64_t channels() const { return heads * width; }
  int64_t pixels() const { return height * columns; }
  int64_t outputs() const { return out_height * out_columns; }
};

struct Window {
  int64_t attention, convolution, stride, dilation;
};

inline float* data(const Tensor& x) { return static_cast<float*>(x.data_ptr()); }

inline float* data(const std::optional<Tensor>& x) { return x.has_value() ? data(*x) : nullptr; }

inline void require(const Tensor& x, const char* name, int64_t entries) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float && x.is_contiguous() && x.numel() == entries,
                  "acmix_cpu: ", name, " is not dense float32 of ", entries, " entries");
}

inline View view(float* from, int64_t image, int64_t outer, int64_t inner, int64_t row) {
  return View{from, Dtype::float32, {image, outer, inner, row, 1}};
}

// One of q, k, v, or their gradients, as [B, N, D, H, W]; `map` entries from channel to channel.
inline View part(const Sizes& s, float* projected, int64_t number, int64_t map) {
  const int64_t channels = s.channels();
  return view(projected + number * channels * map, 3 * channels * map, s.width * map, map, s.columns);
}

inline View part(const Sizes& s, float* projected, int64_t number) { return part(s, projected, number, s.pixels()); }

// All of them as [B, D, P, H, W].
inline View pieces(const Sizes& s, float* projected, int64_t map) {
  return view(projected, 3 * s.channels() * map, map, s.width * map, s.columns);
}

inline View pieces(const Sizes& s, float* projected) { return pieces(s, projected, s.pixels()); }

// The layer's parameters as they are given, without the weights of its projections.
struct Parameters {
  const std::optional<Tensor> &query_bias, &key_bias, &value_bias, &position_weight, &position_bias, &grid;
  const std::optional<Tensor> &fc, &fc_rate, &shift, &rate;
};

// The biases of the three projections one behind the other, or nothing.
inline std::vector<float> joined_biases(const Sizes& s, const Parameters& of) {
  const bool any = of.query_bias.has_value() || of.key_bias.has_value() || of.value_bias.has_value();
  STD_TORCH_CHECK(!any || (of.query_bias.has_value() && of.key_bias.has_value() && of.value_bias.has_value()),
                  "acmix_cpu: some projections have a bias and others none");
  std::vector<float> all;
  for (const std::optional<Tensor>* const bias : {&of.query_bias, &of.key_bias, &of.value_bias}) {
    if (!bias->has_value()) return {};
    require(**bias, "a projection's bias", s.channels());
    all.insert(all.end(), data(*bias), data(*bias) + s.channels());
  }
  return all;
}

inline bool has_code(const Sizes& s, const Parameters& of) {
  const bool any = of.position_weight.has_value() || of.position_bias.has_value() || of.grid.has_value();
  if (!any) return false;
  STD_TORCH_CHECK(of.position_weight.has_value() && of.position_bias.has_value() && of.grid.has_value(),
                  "acmix_cpu: the position code lacks its weight, bias or grid");
  require(*of.position_weight, "the position's weight", 2 * s.width);
  require(*of.position_bias, "the position's bias", s.width);
  require(*of.grid, "the position's grid", 2 * s.pixels());
  return true;
}

// The places of rows, of a grid [2, H, W] of which all columns have the same ones, and all rows the same places of columns;
// else nothing.
inline std::vector<float> places_down(const Sizes& s, const float* grid) {
  std::vector<float> down;
  for (int64_t y = 0; y < s.height; ++y) {
    const float *const across = grid + y * s.columns, *const rows = across + s.pixels();
    if (!std::equal(across, across + s.columns, grid)) return {};
    if (!std::all_of(rows, rows + s.columns, [&](float place) { return place == *rows; })) return {};
    down.push_back(*rows);
  }
  return down;
}

// The FC's weight [k * k, P] times the convolution path's rate.
inline std::vector<float> scaled_mix(const Parameters& of) {
  if (!of.fc.has_value()) return {};
  require(*of.fc, "the FC's weight", of.fc->numel());
  std::vector<float> mix(data(of.fc), data(of.fc) + of.fc->numel());
  if (!of.fc_rate.has_value()) return mix;
  require(*of.fc_rate, "the convolution path's rate", 1);
  for (float& entry : mix) entry *= *data(of.fc_rate);
  return mix;
}

inline Attention attention_of(const Sizes& s, const Window& window, double scale, const std::optional<Tensor>& rate, float* projected) {
  Attention a{};
  a.batch = s.batch, a.heads = s.heads, a.width = s.width, a.height = s.height, a.columns = s.columns;
  a.out_height = s.out_height, a.out_columns = s.out_columns, a.top = 0, a.bottom = s.out_height;
  a.kernel = window.attention, a.stride = window.stride, a.dilation = window.dilation, a.scale = scale;
  a.q = part(s, projected, 0), a.k = part(s, projected, 1), a.v = part(s, projected, 2);
  if (rate.has_value()) require(*rate, "rate", 1);
  a.rate = data(rate);
  return a;
}

// The position code [D, H, W] of a grid [2, H, W], written to `code`.
inline void write_code(const Sizes& s, const Parameters& of, const Tensor& code) {
  const int64_t pixels = s.pixels();
  require(code, "code", s.width * pixels);
  const float *weight = data(of.position_weight), *bias = data(of.position_bias), *across = data(of.grid), *down = across + pixels;
  float* const to = data(code);
  torch::stable::parallel_for(0, s.width, 1 + 16384 / pixels, [&](int64_t first, int64_t last) {
    for (int64_t d = first; d < last; ++d) {
      for (int64_t i = 0; i < pixels; ++i) to[d * pixels + i] = weight[2 * d] * across[i] + weight[2 * d + 1] * down[i] + bias[d];
    }
  });
}

inline bool is_finite(const Tensor& x) {
  return std::all_of(data(x), data(x) + x.numel(), [](float entry) { return std::isfinite(entry); });
}

// The position code where there is one: in parts if the kernels take it so, which leave its bias out, a constant in all logits of
// a query; else as a map, written to `code`. Returns the places of rows, which the parts refer to.
inline std::vector<float> add_code(const Kernels& set, const Sizes& s, const Parameters& of, const Tensor& code, Attention& a) {
  if (!has_code(s, of) || a.kernel == 0) return {};
  std::vector<float> down;
  if (set.takes_code_in_parts(a) && is_finite(*of.position_bias)) down = places_down(s, data(of.grid));
  if (!down.empty()) {
    a.code = data(of.position_weight), a.across = data(of.grid), a.down = down.data();
  } else {
    write_code(s, of, code);
    a.position = view(data(code), 0, 0, s.pixels(), s.columns);
  }
  return down;
}

// The FC, rate included, and the shifts; nothing without the convolution path.
inline Mixing mixing_of(const Sizes& s, const Parameters& of, const std::vector<float>& scaled) {
  if (!of.fc.has_value() || !of.shift.has_value()) return {};
  Mixing m{};
  m.channels = of.shift->size(0), m.maps = of.fc->size(0), m.pieces = of.fc->size(1);
  STD_TORCH_CHECK(m.channels == s.channels() && m.pieces == 3 * s.heads, "acmix_cpu: the convolution path has ", m.pieces,
                  " pieces and ", m.channels, " channels, expected ", 3 * s.heads, " and ", s.channels());
  require(*of.fc, "the FC's weight", m.maps * m.pieces);
  require(*of.shift, "the shifts' weight", m.channels * m.maps * m.maps);
  m.mix = scaled.data(), m.shifts = data(of.shift);
  return m;
}

constexpr int64_t kChannels = 64;  // of a thread, at least: fewer are not worth a second one

// FC and shifts as one kernel [C, P, k, k].
inline std::unique_ptr<float[]> composed(const Kernels& set, Mixing& m) {
  if (m.channels == 0) return nullptr;
  std::unique_ptr<float[]> kernels(new float[m.channels * m.pieces * m.maps]);
  m.kernels = kernels.get();
  torch::stable::parallel_for(0, m.channels, kChannels, [&](int64_t first, int64_t last) { set.compose(m, first, last); });
  return kernels;
}

inline GroupConvolution convolution_of(const Sizes& s, const Window& window, const float* kernels, float* projected) {
  GroupConvolution c{};
  c.batch = s.batch, c.groups = s.width, c.pieces = 3 * s.heads, c.outputs = s.heads;
  c.height = s.height, c.columns = s.columns, c.out_height = s.out_height, c.out_columns = s.out_columns;
  c.top = 0, c.bottom = s.out_height;
  c.kernel = window.convolution, c.stride = window.stride, c.dilation = window.dilation, c.adds = window.attention > 0;
  c.x = pieces(s, projected), c.weight = kernels;
  return c;
}

// The output, or its gradient, as the attention path has it: [B, N, D, H', W'].
inline View by_heads(const Sizes& s, float* out) {
  return view(out, s.channels() * s.outputs(), s.width * s.outputs(), s.outputs(), s.out_columns);
}

// The same as the convolution path has it: [B, D, N, H', W'].
inline View by_groups(const Sizes& s, float* out) {
  return view(out, s.channels() * s.outputs(), s.heads * s.outputs(), s.outputs(), s.out_columns);
}

inline Product product_of(const Sizes& s, const Tensor& query, const Tensor& key, const Tensor& value) {
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

// The weight in the order in which it is multiplied, for all images at once.
inline std::unique_ptr<float[]> arranged(const Kernels& kernels, Product& p) {
  p.by_tiles = kernels.pays_by_tiles != nullptr && kernels.pays_by_tiles(p);
  const int64_t size = kernels.product_panels_size(p);
  std::unique_ptr<float[]> panels(size ? new float[size] : nullptr);
  p.panels = panels.get();
  in_parallel(p, kernels.panel_units(p), kernels.arrange_panels);
  return panels;
}

inline Sizes sizes_of(const Tensor& x, const Tensor& out, int64_t heads) {
  return {x.size(0), x.size(1), heads, out.size(1) / heads, x.size(2), x.size(3), out.size(2), out.size(3)};
}

// Stage I as a product, from x to q, k and v.
inline Product projection_of(const Sizes& s, const Tensor& x, const Tensor& query, const Tensor& key, const Tensor& value,
                             const std::vector<float>& biases, float* projected) {
  const int64_t channels = s.channels(), map = s.pixels();
  Product p = product_of(s, query, key, value);
  require(x, "x", s.batch * s.in_channels * map);
  p.rows = 3 * channels, p.depth = s.in_channels, p.bias = biases.empty() ? nullptr : biases.data();
  p.x = data(x), p.x_image = s.in_channels * map, p.x_row = map;
  p.out = projected, p.out_image = 3 * channels * map, p.out_row = map;
  return p;
}

}  // namespace acmix
