#include "cpu/microkernel.h"

#include <array>
#include <utility>

namespace tlora::cpu {
namespace {

constexpr int64_t kPrefetchRows = 48;

// Rows are addressed as base[5 * (m / 5)] + (m % 5) * stride: x86 forms stride times 1, 2, 4 (and 3 precomputed) inside the
// load itself, so fourteen row pointers need five registers and none is spilled.
template <int Rows, int Vectors>
void chain(const Part* parts, int part_count, bool resume, float* tile) {
  Vec acc[Rows][Vectors];
#pragma GCC unroll 14
  for (int m = 0; m < Rows; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) acc[m][v] = resume ? load(tile + m * kPanel + v * kLanes) : Vec{};

  for (int part = 0; part < part_count; ++part) {
    const Part& p = parts[part];
    const char* a0 = reinterpret_cast<const char*>(p.a);
    const int64_t row = p.a_row * 4, row3 = row * 3, step = p.a_col * 4;
    const char* a5 = a0 + 5 * row;
    const char* a10 = a0 + 10 * row;
    const float* b = p.b;
    const int64_t b_row = p.b_row;
    for (int64_t k = p.k; k > 0; --k) {
      Vec bv[Vectors];
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) {
        // The hardware prefetcher stops at every 4 KiB page; cold weights cross one every 32 rows.
        __builtin_prefetch(b + kPrefetchRows * b_row + v * kLanes);
        bv[v] = load(b + v * kLanes);
      }
#pragma GCC unroll 14
      for (int m = 0; m < Rows; ++m) {
        const char* base = m < 5 ? a0 : m < 10 ? a5 : a10;
        const int q = m % 5;
        const char* at = q == 0 ? base : q == 1 ? base + row : q == 2 ? base + row * 2 : q == 3 ? base + row3 : base + row * 4;
        const Vec av = broadcast(*reinterpret_cast<const float*>(at));
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) acc[m][v] += av * bv[v];
      }
      a0 += step;
      if constexpr (Rows > 5) a5 += step;
      if constexpr (Rows > 10) a10 += step;
      b += b_row;
    }
  }
#pragma GCC unroll 14
  for (int m = 0; m < Rows; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) store(tile + m * kPanel + v * kLanes, acc[m][v]);
}

using Chain = void (*)(const Part*, int, bool, float*);

template <int Vectors, int... Rows>
constexpr std::array<Chain, sizeof...(Rows)> make_table(std::integer_sequence<int, Rows...>) {
  return {chain<Rows + 1, Vectors>...};
}

constexpr auto kNarrow = make_table<1>(std::make_integer_sequence<int, kMaxTileRows>());
constexpr auto kWide = make_table<2>(std::make_integer_sequence<int, kMaxTileRows>());

}  // namespace

void tile_chain(int rows, int vectors, const Part* parts, int part_count, bool resume, float* tile) {
  (vectors == 2 ? kWide : kNarrow)[rows - 1](parts, part_count, resume, tile);
}

}  // namespace tlora::cpu
