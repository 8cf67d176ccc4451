// Shared-memory tiles of the LoRA kernels (128 threads unless said): how they are filled and where ldmatrix finds their rows.
//
//   wide    [rows, 64]  128-byte rows, 16-byte chunk c of row r at chunk c ^ (r % 8)
//   narrow  [64, 16]    32-byte rows, half h of row r at half h ^ (r / 4 % 2)
// Eight rows of one chunk (ldmatrix) then lie in different banks. Elements beyond the stated rows and columns are zero
// and their memory is not read: what lies there may belong to a neighbour or be no number at all.
#pragma once

#include "cuda/mma.h"
#include "cuda/tables.h"

namespace tlora::cuda {

constexpr int kLoraThreads = 128;
constexpr int kSlice = 16;              // strip columns handled as one
constexpr int kMaxSlices = 4;           // at once; more are done in turns
constexpr int kWideColumns = 64;
constexpr uint32_t kWideBytes = 64 * 128;    // a wide tile of 64 rows
constexpr uint32_t kNarrowBytes = 64 * 32;   // also a wide tile of 16 rows
constexpr uint32_t kLoraStageBytes = kWideBytes + kMaxSlices * kNarrowBytes;
constexpr int kLoraStages = 6;               // 96 KiB: two CTAs on an SM of 227 KiB, 80 KiB of rows under way
constexpr uint32_t kLoraSharedBytes = kLoraStages * kLoraStageBytes;

__device__ __forceinline__ uint32_t wide_offset(int row, int chunk) {
  return static_cast<uint32_t>(row * 128 + ((chunk ^ (row & 7)) << 4));
}
__device__ __forceinline__ uint32_t narrow_offset(int row, int half) {
  return static_cast<uint32_t>(row * 32 + ((half ^ (row >> 2 & 1)) << 4));
}

// The first `bytes` (0 … 16) of 16, then zeros; only those bytes are read.
__device__ __forceinline__ void cp_async_bytes(uint32_t shared, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(source), "r"(bytes) : "memory");
}

// Bytes of the 16-byte chunk that lie before column `columns` of the tile.
__device__ __forceinline__ int chunk_bytes(int chunk, int64_t columns) {
  const int64_t bytes = 2 * (columns - 8 * chunk);
  return bytes <= 0 ? 0 : bytes >= 16 ? 16 : static_cast<int>(bytes);
}

// source: element (0, 0) of the tile, 16-byte aligned. rows, columns: how many of the tile's are real.
template <int kRows, int kThreads = kLoraThreads>
__device__ __forceinline__ void load_wide(uint32_t tile, const bf16* source, int64_t ld, int rows, int64_t columns) {
  const int chunk = threadIdx.x & 7, first = threadIdx.x >> 3;
  constexpr int kStep = kThreads / 8;
  static_assert(kStep % 8 == 0 && kRows % kStep == 0, "kStep rows on: the same swizzle");
  const uint32_t to = tile + wide_offset(first, chunk);
  const bf16* from = source + first * ld + 8 * chunk;
  if (columns >= kWideColumns) {
#pragma unroll
    for (int i = 0; i < kRows / kStep; ++i) cp_async_16(to + i * kStep * 128, from + i * kStep * ld, first + i * kStep < rows);
  } else {
    const int bytes = chunk_bytes(chunk, columns);
#pragma unroll
    for (int i = 0; i < kRows / kStep; ++i) {
      const int copied = first + i * kStep < rows ? bytes : 0;
      cp_async_bytes(to + i * kStep * 128, copied ? from + i * kStep * ld : source, copied);
    }
  }
}
__device__ __forceinline__ void load_narrow(uint32_t tile, const bf16* source, int64_t ld, int rows) {
  const int row = threadIdx.x >> 1, half = threadIdx.x & 1;
  cp_async_16(tile + narrow_offset(row, half), source + row * ld + 8 * half, row < rows);
}

// Index of the n-th set bit of a set of parts.
__device__ __forceinline__ int nth_part(uint32_t parts, int n) {
  for (; n > 0; --n) parts &= parts - 1;
  return __ffs(static_cast<int>(parts)) - 1;
}

}  // namespace tlora::cuda
