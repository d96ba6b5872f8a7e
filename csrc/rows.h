// Rows of tensors of any dtype and stride, read into and written from scratch memory in the computing dtype.
#pragma once
#include "problem.h"
#include "simd.h"

namespace acmix::ACMIX_ISA {

ACMIX_INLINE float from_bits(uint32_t bits) {
  float value;
  ::memcpy(&value, &bits, 4);
  return value;
}

ACMIX_INLINE uint32_t to_bits(float value) {
  uint32_t bits;
  ::memcpy(&bits, &value, 4);
  return bits;
}

ACMIX_INLINE float read_bfloat16(uint16_t x) { return from_bits(static_cast<uint32_t>(x) << 16); }

ACMIX_INLINE uint16_t write_bfloat16(float x) {
  const uint32_t bits = to_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;  // NaN: rounding could make an infinity of it
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

// The exponent's bias is corrected by a product, which is right for subnormal numbers too.
ACMIX_INLINE float read_float16(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000u) << 16, rest = x & 0x7fffu;
  if (rest >= 0x7c00u) return from_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  return from_bits(sign | to_bits(from_bits(rest << 13) * 0x1p112f));
}

ACMIX_INLINE uint16_t write_float16(float x) {
  const uint32_t bits = to_bits(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (rest >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (rest < 0x38800000u) {                                              // subnormal: the adder rounds
    return static_cast<uint16_t>(sign | (to_bits(from_bits(rest) + 0.5f) - to_bits(0.5f)));
  }
  return static_cast<uint16_t>(sign | (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1)) >> 13);
}

// The same tensor from an index of its second dimension on.
inline View from_outer(View view, int64_t index) {
  const int64_t bytes = view.dtype == Dtype::float64 ? 8 : view.dtype == Dtype::float32 ? 4 : 2;
  view.data = static_cast<char*>(view.data) + index * view.strides[1] * bytes;
  return view;
}

// `count` entries from `offset` on, `step` apart, to `to`.
template <class T>
inline void read_row(const View& view, int64_t offset, int64_t count, int64_t step, T* to) {
  switch (view.dtype) {
    case Dtype::float32: {
      const float* from = static_cast<const float*>(view.data) + offset;
      if (step == 1) {
        for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(from[i]);
      } else if (step == 2) {  // with the number written out, compilers read vectors and take them apart
        for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(from[2 * i]);
      } else {
        for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(from[i * step]);
      }
      return;
    }
    case Dtype::float64: {
      const double* from = static_cast<const double*>(view.data) + offset;
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(from[i * step]);
      return;
    }
    case Dtype::float16: {
      const uint16_t* from = static_cast<const uint16_t*>(view.data) + offset;
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(read_float16(from[i * step]));
      return;
    }
    case Dtype::bfloat16: {
      const uint16_t* from = static_cast<const uint16_t*>(view.data) + offset;
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(read_bfloat16(from[i * step]));
      return;
    }
  }
}

template <class T>
inline void subtract_row(const View& view, int64_t offset, int64_t count, int64_t step, T* to) {
  if (view.dtype == Dtype::float32) {
    const float* from = static_cast<const float*>(view.data) + offset;
    if (step == 1) {
      for (int64_t i = 0; i < count; ++i) to[i] -= static_cast<T>(from[i]);
    } else if (step == 2) {
      for (int64_t i = 0; i < count; ++i) to[i] -= static_cast<T>(from[2 * i]);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] -= static_cast<T>(from[i * step]);
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    T value = 0;
    read_row(view, offset + i * step, 1, 1, &value);
    to[i] -= value;
  }
}

template <class T>
inline void write_row(const View& view, int64_t offset, int64_t count, int64_t step, const T* from) {
  switch (view.dtype) {
    case Dtype::float32: {
      float* to = static_cast<float*>(view.data) + offset;
      if (step == 1) {
        for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
      } else {
        for (int64_t i = 0; i < count; ++i) to[i * step] = static_cast<float>(from[i]);
      }
      return;
    }
    case Dtype::float64: {
      double* to = static_cast<double*>(view.data) + offset;
      for (int64_t i = 0; i < count; ++i) to[i * step] = static_cast<double>(from[i]);
      return;
    }
    case Dtype::float16: {
      uint16_t* to = static_cast<uint16_t*>(view.data) + offset;
      for (int64_t i = 0; i < count; ++i) to[i * step] = write_float16(static_cast<float>(from[i]));
      return;
    }
    case Dtype::bfloat16: {
      uint16_t* to = static_cast<uint16_t*>(view.data) + offset;
      for (int64_t i = 0; i < count; ++i) to[i * step] = write_bfloat16(static_cast<float>(from[i]));
      return;
    }
  }
}

// Adds to what stands there.
template <class T>
inline void add_row(const View& view, int64_t offset, int64_t count, int64_t step, const T* from) {
  if (view.dtype == Dtype::float32 && step == 1) {
    float* to = static_cast<float*>(view.data) + offset;
    for (int64_t i = 0; i < count; ++i) to[i] += static_cast<float>(from[i]);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    T value = 0;
    read_row(view, offset + i * step, 1, 1, &value);
    value += from[i];
    write_row(view, offset + i * step, 1, 1, &value);
  }
}

// The index that repeated reflection shows at `i` on an axis of `size`.
ACMIX_INLINE int64_t reflect(int64_t i, int64_t size) {
  if (size == 1) return 0;
  const int64_t period = 2 * (size - 1);
  i %= period;
  if (i < 0) i += period;
  return i < size ? i : period - i;
}

}  // namespace acmix::ACMIX_ISA
