// Vectors of one instruction set, by the compiler's vector extension: the same source serves SSE2, AVX2, AVX-512 and
// NEON. Everything lies in a namespace of its own for each, and nothing of the standard library is instantiated: the
// linker would merge such functions, and an old processor could meet instructions of a newer one.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef ACMIX_ISA
#define ACMIX_ISA portable
#endif
#ifndef ACMIX_VECTOR_BYTES
#define ACMIX_VECTOR_BYTES 16
#endif
#define ACMIX_INLINE inline __attribute__((always_inline))
// What is long enough for a call, inner loops above all: once in the library, however often it is used.
#define ACMIX_APART __attribute__((noinline))
#if defined(__clang__)
#define ACMIX_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ACMIX_UNROLL _Pragma("GCC unroll 16")
#endif

namespace acmix::ACMIX_ISA {

// Where better instruction sets are compiled beside this one, it is small: one loop for all windows.
#ifdef ACMIX_SMALL
constexpr bool kSmall = true;
#else
constexpr bool kSmall = false;
#endif

// Vectors that the processor holds at a time.
#if defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = ACMIX_VECTOR_BYTES == 64 ? 32 : 16;
#endif

constexpr int64_t kLineEntries = 16;  // of float32, in a cache line

template <class T>
struct Lanes;

template <>
struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(ACMIX_VECTOR_BYTES)));
  typedef float Loose __attribute__((vector_size(ACMIX_VECTOR_BYTES), aligned(4), may_alias));
  typedef int32_t Integer __attribute__((vector_size(ACMIX_VECTOR_BYTES)));
  static constexpr int64_t count = ACMIX_VECTOR_BYTES / 4;
};

template <>
struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(ACMIX_VECTOR_BYTES)));
  typedef double Loose __attribute__((vector_size(ACMIX_VECTOR_BYTES), aligned(8), may_alias));
  typedef int64_t Integer __attribute__((vector_size(ACMIX_VECTOR_BYTES)));
  static constexpr int64_t count = ACMIX_VECTOR_BYTES / 8;
};

template <class T>
using Vector = typename Lanes<T>::Vector;

template <class T>
ACMIX_INLINE Vector<T> load(const T* from) {
  return *reinterpret_cast<const typename Lanes<T>::Loose*>(from);
}

// Keeps a value that is used several times in a register: compilers would read it from memory again for each use.
template <class V>
ACMIX_INLINE void keep(V& value) {
#if defined(__AVX512F__)
  asm("" : "+v"(value));
#elif defined(__x86_64__)
  asm("" : "+x"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
}

// A read across two cache lines, as most unaligned ones of 64 bytes are, takes twice as long.
template <class T>
ACMIX_INLINE Vector<T> load_once(const T* from) {
  Vector<T> value = load(from);
  keep(value);
  return value;
}

// The first `count` entries, as many as a vector has at most, and zeros behind them, whose memory is not read.
ACMIX_INLINE Vector<float> load_first(const float* from, int64_t count) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
#elif defined(__AVX2__)
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(count)), lanes));
#else
  Vector<float> value{};
  for (int64_t i = 0; i < count; ++i) value[i] = from[i];
  return value;
#endif
}

// Writes the first `count` entries, fewer than a vector has, and no others.
ACMIX_INLINE void store_first(float* to, Vector<float> value, int64_t count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), value);
#elif defined(__AVX2__)
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(count)), lanes), value);
#else
  for (int64_t i = 0; i < count; ++i) to[i] = value[i];
#endif
}

// The first `count` lanes of a vector, zeros in the others.
template <class T>
ACMIX_INLINE Vector<T> first_lanes(Vector<T> value, int64_t count) {
  typename Lanes<T>::Integer lane{};
  for (int i = 0; i < Lanes<T>::count; ++i) lane[i] = i;
  return lane < static_cast<decltype(lane[0] + 0)>(count) ? value : Vector<T>{};
}

template <class T>
ACMIX_INLINE void store(T* to, Vector<T> value) {
  *reinterpret_cast<typename Lanes<T>::Loose*>(to) = value;
}

// A row of `count` entries becomes body(another's entries, its own), vector by vector.
template <class F>
ACMIX_INLINE void for_each_vector(const float* from, int64_t count, float* to, F body) {
  constexpr int64_t lanes = Lanes<float>::count;
  int64_t x = 0;
  for (; x + lanes <= count; x += lanes) store(to + x, body(load(from + x), load(to + x)));
  if (x < count) store_first(to + x, body(load_first(from + x, count - x), load_first(to + x, count - x)), count - x);
}

template <class T>
ACMIX_INLINE Vector<T> splat(T value) {
  return value - Vector<T>{};
}

// NaN in either stays NaN in the logits: it reaches the exponential from the second operand or from the first.
template <class V>
ACMIX_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}

// Every second entry of two vectors side by side, from the first or from the second on.
template <int FIRST>
ACMIX_INLINE Vector<float> every_second(Vector<float> a, Vector<float> b) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  const __m256 pairs = _mm256_shuffle_ps(a, b, FIRST == 0 ? 0x88 : 0xdd);
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(pairs), 0xd8));
#elif defined(__clang__)
  constexpr int lanes = Lanes<float>::count;
  Vector<float> out{};
  for (int i = 0; i < lanes; ++i) out[i] = 2 * i + FIRST < lanes ? a[2 * i + FIRST] : b[2 * i + FIRST - lanes];
  return out;
#else
  constexpr int lanes = Lanes<float>::count;
  Lanes<float>::Integer places{};
  for (int i = 0; i < lanes; ++i) places[i] = 2 * i + FIRST;
  return __builtin_shuffle(a, b, places);
#endif
}

// Both at once.
struct Parities {
  Vector<float> even, odd;
};
ACMIX_INLINE Parities parities(Vector<float> a, Vector<float> b) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  const Vector<float> first = _mm256_permute2f128_ps(a, b, 0x20), second = _mm256_permute2f128_ps(a, b, 0x31);
  return {_mm256_shuffle_ps(first, second, 0x88), _mm256_shuffle_ps(first, second, 0xdd)};
#else
  return {every_second<0>(a, b), every_second<1>(a, b)};
#endif
}

// In groups of 2 H lanes: the sums of the halves of a group of `a` in its first half, of `b` in its second.
template <int H>
ACMIX_INLINE Vector<float> sums_of_halves(Vector<float> a, Vector<float> b) {
  constexpr int lanes = Lanes<float>::count;
#if defined(__clang__)
  Vector<float> own = a, other = b;
  for (int i = 0; i < lanes; ++i) {
    own[i] = i & H ? b[i] : a[i];
    other[i] = i & H ? b[i - H] : a[i + H];
  }
  return own + other;
#else
  Lanes<float>::Integer own{}, other{};
  for (int i = 0; i < lanes; ++i) {
    own[i] = i & H ? lanes + i : i;
    other[i] = i & H ? lanes + i - H : i + H;
  }
  return __builtin_shuffle(a, b, own) + __builtin_shuffle(a, b, other);
#endif
}

template <int H>
ACMIX_INLINE void fold(Vector<float>* vectors) {
  if constexpr (H > 0) {
    ACMIX_UNROLL
    for (int i = 0; i < H; ++i) vectors[i] = sums_of_halves<H>(vectors[i], vectors[i + H]);
    fold<H / 2>(vectors);
  }
}

// The sum of each of COUNT vectors' lanes.
template <int COUNT>
ACMIX_INLINE void sums_of_lanes(const Vector<float>* vectors, float* to) {
  constexpr int lanes = Lanes<float>::count;
  ACMIX_UNROLL
  for (int first = 0; first < COUNT; first += lanes) {
    Vector<float> some[lanes];
    ACMIX_UNROLL
    for (int i = 0; i < lanes; ++i) some[i] = first + i < COUNT ? vectors[first + i] : Vector<float>{};
    fold<lanes / 2>(some);
    store(to + first, some[0]);
  }
}

// The same of vectors in memory, of which the last ones may be too few for a vector of sums.
inline void sums_of_lanes(const float* vectors, int64_t count, float* to) {
  constexpr int64_t lanes = Lanes<float>::count;
  for (int64_t first = 0; first < count; first += lanes) {
    Vector<float> some[lanes];
    for (int64_t i = 0; i < lanes; ++i) some[i] = first + i < count ? load(vectors + (first + i) * lanes) : Vector<float>{};
    float totals[lanes];
    sums_of_lanes<lanes>(some, totals);
    for (int64_t i = 0; i < lanes && first + i < count; ++i) to[first + i] = totals[i];
  }
}

// float64 is for checks, not for speed.
inline void sums_of_lanes(const double* vectors, int64_t count, double* to) {
  constexpr int64_t lanes = Lanes<double>::count;
  for (int64_t i = 0; i < count; ++i) {
    to[i] = 0;
    for (int64_t lane = 0; lane < lanes; ++lane) to[i] += vectors[i * lanes + lane];
  }
}

// Of two vectors the second of which follows H rows below the first in a matrix: the two that stand there when each square of
// 2 H rows has its blocks of H x H on the other side of the diagonal in each other's place.
template <int H>
ACMIX_INLINE void exchange(Vector<float>& a, Vector<float>& b) {
  constexpr int lanes = Lanes<float>::count;
#if defined(__clang__)
  Vector<float> upper = a, lower = b;
  for (int i = 0; i < lanes; ++i) {
    if (i & H) upper[i] = b[i - H];
    else lower[i] = a[i + H];
  }
#else
  Lanes<float>::Integer of_upper{}, of_lower{};
  for (int i = 0; i < lanes; ++i) {
    of_upper[i] = i & H ? lanes + i - H : i;
    of_lower[i] = i & H ? lanes + i : i + H;
  }
  const Vector<float> upper = __builtin_shuffle(a, b, of_upper), lower = __builtin_shuffle(a, b, of_lower);
#endif
  a = upper, b = lower;
}

// A square of vectors, rows turned to columns.
template <int H>
ACMIX_INLINE void turn(Vector<float>* vectors) {
  if constexpr (H > 0) {
    ACMIX_UNROLL
    for (int i = 0; i < Lanes<float>::count; ++i) {
      if ((i & H) == 0) exchange<H>(vectors[i], vectors[i + H]);
    }
    turn<H / 2>(vectors);
  }
}

ACMIX_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
ACMIX_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// 2^x for x <= 0 to about one unit in the last place: 2^n times a polynomial on [-1/2, 1/2], of degree 6, fitted to the
// smallest largest relative error (1.3e-8); or, where a shuffle looks up sixteen numbers, 2^(n / 16) times one on [-1/32, 1/32],
// of degree 3 (1.7e-9). Below 2^-100, zero: products with such weights would be subnormal numbers,
// which take a hundred times as long. Several at a time, step by step: none waits for its own last step.
template <int64_t N>
ACMIX_INLINE void powers_of_two(Vector<float>* x) {
  using V = Vector<float>;
  using I = Lanes<float>::Integer;
#if defined(__AVX512F__) && !defined(__clang__)
  // Adding 1.5 * 2^19 rounds to the nearest sixteenth and leaves it in the low bits. The lowest four choose one of the numbers
  // 2^(i / 16), here less i * 2^19: so much is added with the others, which become the exponent.
  const float rounder = 786432.0f, top = 0x1.c6b3f6p-5f;
  const I sixteenths = {0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
                        0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c, 0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
  constexpr float factors[] = {0x1.ebfffap-3f, 0x1.62e430p-1f};
  const auto power_of = [&](I bits) __attribute__((always_inline)) { return __builtin_shuffle(sixteenths, bits) + (bits << 19); };
  const auto product = [](V power, V rest, V sum) __attribute__((always_inline)) { return (power * rest) * sum + power; };
#else
  // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits, here with the exponent's bias.
  const float rounder = 12582912.0f + 127.0f, top = 0x1.4666a4p-13f;
  constexpr float factors[] = {0x1.5f242ep-10f, 0x1.3b2822p-7f, 0x1.c6af12p-5f, 0x1.ebfbe2p-3f, 0x1.62e430p-1f, 1.0f};
  const auto power_of = [](I bits) __attribute__((always_inline)) { return bits << 23; };
  const auto product = [](V power, V, V sum) __attribute__((always_inline)) { return sum * power; };
#endif
  V powers[N], sums[N];
  I vanish[N];
  ACMIX_UNROLL
  for (int i = 0; i < N; ++i) vanish[i] = x[i] < splat(-100.0f);
  ACMIX_UNROLL
  for (int i = 0; i < N; ++i) powers[i] = x[i] + rounder;
  ACMIX_UNROLL
  for (int i = 0; i < N; ++i) x[i] -= powers[i] - rounder;
  ACMIX_UNROLL
  for (int i = 0; i < N; ++i) powers[i] = reinterpret_cast<V>(power_of(reinterpret_cast<I>(powers[i])));
  ACMIX_UNROLL
  for (int i = 0; i < N; ++i) sums[i] = splat(top);
  ACMIX_UNROLL
  for (size_t k = 0; k < sizeof(factors) / sizeof(float); ++k) {
    ACMIX_UNROLL
    for (int i = 0; i < N; ++i) sums[i] = sums[i] * x[i] + factors[k];
  }
  // By a product: a sum of bits could make a number of a NaN, which the rest and its sum are too.
  ACMIX_UNROLL
  for (int i = 0; i < N; ++i) x[i] = vanish[i] ? V{} : product(powers[i], x[i], sums[i]);
}

// float64 is for checks, not for speed.
template <int64_t N>
ACMIX_INLINE void powers_of_two(Vector<double>* x) {
  ACMIX_UNROLL
  for (int i = 0; i < N; ++i) {
    Vector<double> power = x[i];
    for (int64_t lane = 0; lane < Lanes<double>::count; ++lane) power[lane] = ::exp2(power[lane]);
    x[i] = power;
  }
}

// Logits are held as powers of two: those of e times this.
constexpr double kLog2E = 1.4426950408889634;

struct OutOfMemory : std::bad_alloc {
  const char* what() const noexcept override { return "acmix: the native CPU kernels got no memory for their rows"; }
};

// What stands in new scratch memory: zeros, or anything where all that is read is written first.
enum class Holds { zeros, anything };

// Scratch memory, aligned to cache lines.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t size, Holds holds = Holds::zeros)
      : size_(size + 2 * 64), memory_(static_cast<T*>(holds == Holds::zeros ? ::calloc(size_, sizeof(T)) : ::malloc(size_ * sizeof(T)))) {
    if (memory_ == nullptr) throw OutOfMemory();
#ifdef ACMIX_POISON  // to see whether what is read was written
    if (holds == Holds::anything) ::memset(static_cast<void*>(memory_), 0xff, static_cast<size_t>(size_) * sizeof(T));
#endif
    next_ = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory_) + 63) / 64 * 64);
  }
  ~Scratch() { ::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // The next `size` entries. Vectors may be read a little past their end; `padding` is what that needs.
  T* take(int64_t size) {
    T* taken = next_;
    next_ += size_of(size);
    return taken;
  }
  static int64_t size_of(int64_t size) { return round_up(size + padding, 16); }
  static constexpr int64_t padding = 16;

 private:
  int64_t size_;
  T* memory_;
  T* next_;
};

}  // namespace acmix::ACMIX_ISA
