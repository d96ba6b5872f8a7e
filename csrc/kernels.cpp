// Compiled once for each instruction set: ACMIX_ISA names it, ACMIX_VECTOR_BYTES is the width of its vectors.
#include "problem.h"
#include "attention_backward_direct.h"
#include "attention_folded.h"
#include "attention_forward.h"
#include "grid_sums.h"
#include "group_gradients_direct.h"
#include "group_strided.h"
#include "group_winograd.h"
#include "mixing.h"
#include "product.h"
#include "row_products.h"

// float64 is for checks, not for speed: one set's kernels serve those as well that run only where it does. Their units are
// counted by the set that knows how it cuts them.
#ifndef ACMIX_FLOAT64
#define ACMIX_FLOAT64 ACMIX_ISA
#define ACMIX_HAS_FLOAT64
#endif

namespace acmix::ACMIX_FLOAT64 {

extern const Kernels float64_kernels;

}  // namespace acmix::ACMIX_FLOAT64

namespace acmix::ACMIX_ISA {

#ifdef ACMIX_HAS_FLOAT64
const Kernels float64_kernels{"float64",
                              nullptr,
                              attention_forward_units,
                              attention_forward<0, double>,
                              attention_backward_units,
                              attention_backward<0, double>,
                              convolution_forward_units,
                              convolution_forward<double>,
                              convolution_backward_units,
                              convolution_backward<double>,
                              nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                              nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
#endif

namespace {

int64_t usual(const Attention& a) { return a.stride == 1 && a.dilation == 1 ? a.kernel : -a.kernel; }

// Where dense rows of float32 have kernels of their own, callers bring usual windows to such rows: all others share a loop.
#ifdef ACMIX_HAS_MASKS
constexpr bool kDirect = true;
#else
constexpr bool kDirect = false;
#endif

template <int K>
struct Side {
  static constexpr int value = K;
};

// Calls body(Side<K>) with the window's side where it has a loop of its own, or 0.
template <class F>
void by_window(const Attention& a, F body) {
  if constexpr (!kSmall && !kDirect) {
    const int64_t side = usual(a);
    if (side == 7) return body(Side<7>{});
    if (side == 3) return body(Side<3>{});
    if (side == 5) return body(Side<5>{});
    if (side == -7) return body(Side<-7>{});
  }
  body(Side<0>{});
}

#ifdef ACMIX_HAS_MASKS
template <int S>
void direct_of(const Attention& a, int64_t first, int64_t last) {
  if (a.kernel == 3) return attention_forward_direct<3, S>(a, first, last);
  if (a.kernel == 5) return attention_forward_direct<5, S>(a, first, last);
  return attention_forward_direct<7, S>(a, first, last);
}

template <int S>
void direct_back_of(const Attention& a, int64_t first, int64_t last) {
  if (a.kernel == 3) return attention_backward_direct<3, S>(a, first, last);
  if (a.kernel == 5) return attention_backward_direct<5, S>(a, first, last);
  return attention_backward_direct<7, S>(a, first, last);
}
#endif

// float64 alone is computed in float64.
void forward_entry(const Attention& a, int64_t first, int64_t last) {
#ifdef ACMIX_HAS_MASKS
#ifdef ACMIX_HAS_FOLDS
  if (folds(a)) return attention_forward_folded<7>(a, first, last);
#endif
  if (attends_directly(a)) return a.stride == 1 ? direct_of<1>(a, first, last) : direct_of<2>(a, first, last);
#endif
  if (a.q.dtype == Dtype::float64) return ACMIX_FLOAT64::float64_kernels.attention_forward(a, first, last);
  by_window(a, [&](auto side) { attention_forward<decltype(side)::value, float>(a, first, last); });
}

void backward_entry(const Attention& a, int64_t first, int64_t last) {
#ifdef ACMIX_HAS_MASKS
  if (attends_back_directly(a)) return a.stride == 1 ? direct_back_of<1>(a, first, last) : direct_back_of<2>(a, first, last);
#endif
  if (a.q.dtype == Dtype::float64) return ACMIX_FLOAT64::float64_kernels.attention_backward(a, first, last);
  by_window(a, [&](auto side) { attention_backward<decltype(side)::value, float>(a, first, last); });
}

void convolution_forward_entry(const GroupConvolution& c, int64_t first, int64_t last) {
#ifdef ACMIX_HAS_MASKS
  if (convolves_by_winograd(c)) return convolution_forward_winograd(c, first, last);
  if (convolves_directly(c)) {
    if (c.stride == 1) return convolution_forward_direct<1>(c, first, last);
    if constexpr (kStridedRows) return convolution_forward_strided(c, first, last);
    else return convolution_forward_direct<2>(c, first, last);
  }
#endif
  if (c.x.dtype == Dtype::float64) return ACMIX_FLOAT64::float64_kernels.convolution_forward(c, first, last);
  convolution_forward<float>(c, first, last);
}

void convolution_backward_entry(const GroupConvolution& c, int64_t first, int64_t last) {
#ifdef ACMIX_HAS_MASKS
  if (convolves_back_directly(c)) {
    return c.stride == 1 ? convolution_backward_direct<1>(c, first, last) : convolution_backward_direct<2>(c, first, last);
  }
#endif
  if (c.x.dtype == Dtype::float64) return ACMIX_FLOAT64::float64_kernels.convolution_backward(c, first, last);
  convolution_backward<float>(c, first, last);
}

bool takes_code_in_parts([[maybe_unused]] const Attention& a) {
#ifdef ACMIX_HAS_MASKS
  return attends_directly(a);
#else
  return false;
#endif
}

int64_t forward_units(const Attention& a) {
#ifdef ACMIX_HAS_FOLDS
  if (folds(a)) return folded_forward_units(a);
#endif
  return a.q.dtype == Dtype::float64 ? ACMIX_FLOAT64::float64_kernels.attention_forward_units(a) : attention_forward_units(a);
}

int64_t backward_units(const Attention& a) {
  return a.q.dtype == Dtype::float64 ? ACMIX_FLOAT64::float64_kernels.attention_backward_units(a) : attention_backward_units(a);
}

int64_t convolution_units(const GroupConvolution& c) {
  return c.x.dtype == Dtype::float64 ? ACMIX_FLOAT64::float64_kernels.convolution_forward_units(c) : convolution_forward_units(c);
}

int64_t convolution_back_units(const GroupConvolution& c) {
  return c.x.dtype == Dtype::float64 ? ACMIX_FLOAT64::float64_kernels.convolution_backward_units(c) : convolution_backward_units(c);
}

#define ACMIX_TEXT_OF(x) #x
#define ACMIX_TEXT(x) ACMIX_TEXT_OF(x)

}  // namespace

extern const Kernels kernels;
const Kernels kernels{ACMIX_TEXT(ACMIX_ISA),
                      takes_code_in_parts,
                      forward_units,
                      forward_entry,
                      backward_units,
                      backward_entry,
                      convolution_units,
                      convolution_forward_entry,
                      convolution_back_units,
                      convolution_backward_entry,
                      nullptr,
                      product_panels_size,
                      panel_units,
                      arrange_panels,
                      product_units,
                      multiply,
                      turned_size,
                      turn_units,
                      turn_rows,
                      row_product_units,
                      multiply_rows_by_rows,
                      sum_over_grid,
                      compose,
                      pull_back_shifts,
                      pull_back_mix};

}  // namespace acmix::ACMIX_ISA
