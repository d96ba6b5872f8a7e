// A matrix unit's instructions (AMX) in plain code: their program then runs on processors that have AVX-512 alone, and sanitizers
// see what it reads and writes. Included before the kernels.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace acmix_check {

constexpr int kTileLines = 16, kTileWords = 16;

// A thread's tiles; none is there before they are configured and after they are released.
struct TileState {
  uint32_t words[8][kTileLines][kTileWords];
  bool there[8];

  void need(int tile) const {
    if (!there[tile]) std::abort();
  }
};
inline thread_local TileState tiles;

__attribute__((noinline)) inline void configure(const void* from) {
  unsigned char bytes[64];
  std::memcpy(bytes, from, sizeof(bytes));
  if (bytes[0] != 1 || bytes[1] != 0) std::abort();
  for (int tile = 0; tile < 8; ++tile) {
    const int row = bytes[16 + 2 * tile] + 256 * bytes[17 + 2 * tile], rows = bytes[48 + tile];
    if (!(row == 64 && rows == 16) && !(row == 0 && rows == 0)) std::abort();  // no other size is in use
    tiles.there[tile] = rows == 16;
  }
  std::memset(tiles.words, 0, sizeof(tiles.words));
}

__attribute__((noinline)) inline void release() { tiles = TileState{}; }

__attribute__((noinline)) inline void clear_tile(int tile) {
  tiles.need(tile);
  std::memset(tiles.words[tile], 0, sizeof(tiles.words[tile]));
}

__attribute__((noinline)) inline void load_tile(int tile, const void* from, int64_t row) {
  tiles.need(tile);
  for (int i = 0; i < kTileLines; ++i) std::memcpy(tiles.words[tile][i], static_cast<const char*>(from) + i * row, 64);
}

__attribute__((noinline)) inline void store_tile(int tile, void* to, int64_t row) {
  tiles.need(tile);
  for (int i = 0; i < kTileLines; ++i) std::memcpy(static_cast<char*>(to) + i * row, tiles.words[tile][i], 64);
}

// Subnormal numbers are zero, where they come and where they go.
inline float flushed(float x) { return __builtin_fabsf(x) < 0x1p-126f ? 0.0f * x : x; }

inline float number(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return flushed(x);
}

// Even and odd entries are summed apart, and all of them before they are added.
__attribute__((noinline)) inline void add_products(int to, int left, int right) {
  tiles.need(to), tiles.need(left), tiles.need(right);
  for (int i = 0; i < kTileLines; ++i) {
    for (int j = 0; j < kTileWords; ++j) {
      float even = 0, odd = 0, sum = number(tiles.words[to][i][j]);
      for (int k = 0; k < kTileWords; ++k) {
        const uint32_t a = tiles.words[left][i][k], b = tiles.words[right][k][j];
        even = flushed(__builtin_fmaf(number(a << 16), number(b << 16), even));
        odd = flushed(__builtin_fmaf(number(a & 0xffff0000u), number(b & 0xffff0000u), odd));
      }
      sum = flushed(sum + flushed(even + odd));
      std::memcpy(&tiles.words[to][i][j], &sum, sizeof(sum));
    }
  }
}

}  // namespace acmix_check

#undef _tile_zero
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_zero(tile) acmix_check::clear_tile(tile)
#define _tile_loadconfig(from) acmix_check::configure(from)
#define _tile_release() acmix_check::release()
#define _tile_loadd(tile, from, row) acmix_check::load_tile(tile, from, row)
#define _tile_stored(tile, to, row) acmix_check::store_tile(tile, to, row)
#define _tile_dpbf16ps(to, left, right) acmix_check::add_products(to, left, right)
