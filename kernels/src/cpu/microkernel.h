// The one inner loop of the CPU backend: a register tile of C = sum over parts of A_part · B_part.
//
// Every element of the tile is ONE chain of fp32 fused multiply-adds, in the order of the parts and of k within each part.
// The chain does not depend on the tile's size or place, so any tiling, any thread count and any neighbour rows give the
// same bits. A chain can also be cut: the accumulators come from `tile` when `resume` is set, and go back there.
#pragma once

#include <cstdint>

#include "cpu/vec.h"

namespace tlora::cpu {

// One stretch of the K dimension.
struct Part {
  const float* a;      // element (m, k) at a[m * a_row + k * a_col]
  int64_t a_row;
  int64_t a_col;
  const float* b;      // kPanel (or kLanes) contiguous columns of row k at b[k * b_row]
  int64_t b_row;
  int64_t k;
};

// tile: [rows][kPanel] fp32. rows 1..kMaxTileRows; vectors 1 or 2 (columns kLanes or kPanel; the others are not written).
void tile_chain(int rows, int vectors, const Part* parts, int part_count, bool resume, float* tile);

// Splits `rows` into the fewest tiles of nearly equal height: tile i of count.
struct RowTiles {
  int64_t rows;
  int64_t count;
  explicit RowTiles(int64_t rows) : rows(rows), count(ceil_div(rows, kMaxTileRows)) {}
  int64_t begin(int64_t i) const { return rows * i / count; }
  int64_t size(int64_t i) const { return begin(i + 1) - begin(i); }
};

// Panel layout of a [K, N] operand: panels of kPanel columns, the last one kLanes wide if that is enough, each [K][width],
// zero-padded. Element (k, n) is at panel(n / kPanel) + k * width + n % kPanel.
inline int64_t panel_count(int64_t n) { return ceil_div(n, kPanel); }
inline int panel_vectors(int64_t n, int64_t p) { return n - p * kPanel > kLanes ? 2 : 1; }
inline int64_t panel_elements(int64_t k, int64_t n) { return k * round_up(n, kLanes); }

}  // namespace tlora::cpu
