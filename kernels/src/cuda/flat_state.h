// Walking an adapter's flat state matrix by matrix, in pieces of at most kPiece elements that lie in one matrix: the unit of
// work of the kernels that read flat states and write working copies.
#pragma once

#include "cuda/tables.h"

namespace tlora::cuda {

constexpr int kPiece = 4096;

struct Piece {
  int layer = 0;
  int module = 0;
  bool is_b = false;
  int first = 0;       // element in its matrix
  int elements = 0;    // of the matrix
  int64_t before = 0;  // elements of the flat state before the matrix, per unit of rank (see flat_offset)
};

__host__ __device__ inline int pieces_of(int64_t elements) { return static_cast<int>((elements + kPiece - 1) / kPiece); }

// Of one layer, with matrices A [rows, in] and B [out, rows].
inline int layer_pieces(const ModuleSizes& sizes, uint32_t targets, int rows) {
  int count = 0;
  for (int m = 0; m < kModuleCount; ++m)
    if (targets >> m & 1u) count += pieces_of(rows * sizes.in[m]) + pieces_of(rows * sizes.out[m]);
  return count;
}

// Whole warps call this together: lane 2m looks at A of module m, lane 2m + 1 at its B.
__device__ __forceinline__ Piece piece_at(const ModuleSizes& sizes, uint32_t targets, int rows, int index) {
  constexpr unsigned kAll = 0xffffffffu;
  const int lane = static_cast<int>(threadIdx.x) % 32, module = lane / 2;
  int size = 0;
  if (module < kModuleCount && (targets >> module & 1u))
    size = static_cast<int>(lane % 2 ? sizes.out[module] : sizes.in[module]);
  const int count = pieces_of(static_cast<int64_t>(rows) * size);
  int size_end = size, count_end = count;  // sums up to and with this lane
#pragma unroll
  for (int step = 1; step < 16; step *= 2) {
    const int size_below = __shfl_up_sync(kAll, size_end, step), count_below = __shfl_up_sync(kAll, count_end, step);
    if (lane >= step) {
      size_end += size_below;
      count_end += count_below;
    }
  }
  const int layer_count = __shfl_sync(kAll, count_end, 15), layer_size = __shfl_sync(kAll, size_end, 15);
  Piece p;
  p.layer = index / layer_count;
  index -= p.layer * layer_count;
  const bool mine = index >= count_end - count && index < count_end && lane < 2 * kModuleCount;
  const int owner = __ffs(static_cast<int>(__ballot_sync(kAll, mine))) - 1;
  p.module = owner / 2;
  p.is_b = owner % 2 != 0;
  p.first = (index - __shfl_sync(kAll, count_end - count, owner)) * kPiece;
  p.elements = __shfl_sync(kAll, rows * size, owner);
  p.before = static_cast<int64_t>(p.layer) * layer_size + __shfl_sync(kAll, size_end - size, owner);
  return p;
}

// A working copy of x: bf16, never infinite.
__device__ __forceinline__ bf16 working_copy(float x) {
  const float largest = __uint_as_float(0x7f7f0000u);
  return __float2bfloat16_rn(fminf(fmaxf(x, -largest), largest));
}

}  // namespace tlora::cuda
