// Causal grouped-query attention inside the segments of a batch, forward and backward, with mma.sync and cp.async:
// every architecture from sm_80 on. No [T, T] matrix is stored and nothing is atomic: one CTA owns an output tile and
// adds up its terms in an order fixed by positions in the segment, so the bits do not depend on the rest of the batch.
//
// CTAs have four warps; a warp owns 16 * MT rows of the CTA's tile over the full head dimension, padded to D in {16,
// 32, 64, 128}. The other operand streams through two shared stages (one barrier a step: the copy of step i + 1 starts
// after the barrier of step i, which everybody passes only when done with step i - 1). Rows beyond the segment's end
// and columns beyond head_dim are zero-filled when loaded: they may be a neighbour's.
//
//   kernel   owns           streams              D    MT   owned x streamed rows   shared (KiB)   CTAs an SM
//   forward  query tile     K, V ascending       128  2    128 x 64                96             2 (255 registers)
//                                                64   2    128 x 64                48             2 (255)
//   dkdv     K, V tile      q heads of the       128  1    64 x 64                 96 + 1         2 (255)
//                           group in order, in   64   2    128 x 32                48 + 0.5       2 (255)
//                           each Q, dO ascending
//   dq       query tile     K, V ascending       128  2    128 x 32                96             2 (255)
//                                                64   2    128 x 32                48             2 (255)
// D 16 and 32 have the tiles of 64 and three CTAs an SM in forward and dq (168 registers). The tile lists put the
// heaviest tiles first: query tiles late in their segment; K, V tiles early in it, so dkdv reads its list from the end.
// 32 rows a warp halve the shared memory reads per product against 16 (the right operand's), which is what bounds
// mma.sync on sm_90; dkdv at D 128 has no registers for that: its two sums are 128 of them already.
//
// forward: online softmax in base 2 over K, V tiles; out = sum of round(P) V / sum of P. dkdv computes the transposed
// scores K Q^T, dq the plain ones, so that the C fragments of P and dS are, packed, the A fragments of the next
// product.
//
// Shared tiles are rows of 2 * D bytes in 16-byte chunks; the chunk number is xored with the number of the 128-byte
// line (mod 8), which makes ldmatrix and the staged stores free of bank conflicts.
#include <cmath>
#include <string>

#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/mma.h"

namespace tlora::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr float kLog2e = 1.4426950408889634f;
constexpr int kFar = 1 << 30;  // more than any position
constexpr float kInfinity = __builtin_huge_valf();

// 2^x within 2 ulp; below 2^-126 it is 0, far under what a P that rounds to 8 bits or a sum that holds a 1 can tell
// apart.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ void store_shared(uint32_t address, uint32_t value) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
__device__ __forceinline__ void store_shared(uint32_t address, uint4 v) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ __forceinline__ uint4 load_shared(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// Read anew at every call: what the end of a kernel computes from them again occupies no registers in its main loop.
__device__ __forceinline__ int block_index() {
  int index;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
  return index;
}
__device__ __forceinline__ int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

// The swizzle has a period of 8 rows, so a tile's rows 8i, 16i, … look like its row 0, and the chunk pair 2j of a lane
// that stands at chunk 0 or 1 is at its address ^ (32 * j).
template <int D>
struct SharedTile {
  static constexpr int kRowBytes = 2 * D;
  static constexpr int kChunks = D / 8;
  static constexpr int kRowsPerLine = D >= 64 ? 1 : 64 / D;
  static constexpr int kMask = kChunks < 8 ? kChunks - 1 : 7;
  static __device__ __forceinline__ uint32_t offset(int row, int chunk) {
    return static_cast<uint32_t>(row * kRowBytes + ((chunk ^ (row / kRowsPerLine & kMask)) << 4));
  }
};

// Where the calling lane points for the left fragment of a warp's rows, or for right fragments from rows along k
// (trans) …
template <int D>
__device__ __forceinline__ uint32_t left_lane(uint32_t rows) {
  const int lane = thread_index() % 32;
  return rows + SharedTile<D>::offset(lane % 16, lane / 16);
}
// … and for two right fragments from rows along n.
template <int D>
__device__ __forceinline__ uint32_t right_lane(uint32_t rows) {
  const int lane = thread_index() % 32;
  return rows + SharedTile<D>::offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}

// What load_tile wants to be pointed at for the tile whose first element is `first`. kVector: head_dim and the row
// pitch are multiples of 8 and rows are 16-byte aligned; otherwise even, and 4-byte aligned.
template <int D, bool kVector>
__device__ __forceinline__ const bf16* thread_source(const bf16* first, int64_t ld) {
  constexpr int kChunks = SharedTile<D>::kChunks;
  const int thread = threadIdx.x;
  return kVector ? first + thread / kChunks * ld + thread % kChunks * 8 : first;
}

// Starts copying the first `rows` rows (more than ROWS: all) of head_dim columns; the rest of the [ROWS, D] tile
// becomes zero.
template <int D, int ROWS, bool kVector>
__device__ __forceinline__ void load_tile(uint32_t tile, const bf16* source, int64_t ld, int rows, int head_dim) {
  using Tile = SharedTile<D>;
  if constexpr (kVector) {
    constexpr int kStep = kThreads / Tile::kChunks;
    const int thread = threadIdx.x, chunk = thread % Tile::kChunks, first = thread / Tile::kChunks;
    const uint32_t to = tile + Tile::offset(first, chunk);
    const int limit = (chunk * 8 < head_dim ? rows : 0) - first;
#pragma unroll
    for (int i = 0; i < (ROWS + kStep - 1) / kStep; ++i) {
      if (ROWS % kStep != 0 && first + i * kStep >= ROWS) break;
      cp_async_16(to + i * kStep * Tile::kRowBytes, source, i * kStep < limit);
      source += kStep * ld;
    }
  } else {
#pragma unroll 1
    for (int index = threadIdx.x; index < ROWS * Tile::kChunks; index += kThreads) {
      const int row = index / Tile::kChunks, chunk = index % Tile::kChunks;
      const bf16* from = source + row * ld + chunk * 8;
      uint32_t pair[4];
#pragma unroll
      for (int e = 0; e < 4; ++e)
        pair[e] = row < rows && chunk * 8 + 2 * e < head_dim ? *reinterpret_cast<const uint32_t*>(from + 2 * e) : 0;
      store_shared(tile + Tile::offset(row, chunk), make_uint4(pair[0], pair[1], pair[2], pair[3]));
    }
  }
}

// The warp's C fragments, rounded, to the first `rows` rows at `out`. `stage`: shared memory of 16 * MT rows, the
// warp's own.
template <int D, int MT, bool kVector>
__device__ __forceinline__ void store_rows(uint32_t stage, const float (&sum)[MT][D / 8][4], bf16* out, int64_t ld,
                                           int rows, int head_dim) {
  using Tile = SharedTile<D>;
  const int lane = thread_index() % 32;
  __syncwarp();
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int i = 0; i < D / 8; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        store_shared(stage + Tile::offset(m * 16 + h * 8 + lane / 4, i) + lane % 4 * 4,
                     pack_bf16(sum[m][i][2 * h], sum[m][i][2 * h + 1]));
  __syncwarp();
#pragma unroll 4
  for (int index = lane; index < 16 * MT * Tile::kChunks; index += 32) {
    const int row = index / Tile::kChunks, chunk = index % Tile::kChunks;
    if (row >= rows || chunk * 8 >= head_dim) continue;
    const uint4 value = load_shared(stage + Tile::offset(row, chunk));
    bf16* to = out + row * ld + chunk * 8;
    if constexpr (kVector) {
      *reinterpret_cast<uint4*>(to) = value;
    } else {
      const uint32_t pair[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (chunk * 8 + 2 * e < head_dim) *reinterpret_cast<uint32_t*>(to + 2 * e) = pair[e];
    }
  }
}

// sum[m][n] = the warp's rows of A times the rows of B, both [rows, D] tiles.
template <int D, int MT, int N>
__device__ __forceinline__ void multiply_rows(float (&sum)[MT][N / 8][4], uint32_t a_rows, uint32_t b_rows) {
  constexpr int kRowBytes = SharedTile<D>::kRowBytes;
  const uint32_t a = left_lane<D>(a_rows), b = right_lane<D>(b_rows);
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int n = 0; n < N / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[m][n][e] = 0;
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    uint32_t left[MT][4];
#pragma unroll
    for (int m = 0; m < MT; ++m) ldmatrix_x4(left[m], (a ^ (k << 5)) + m * 16 * kRowBytes);
#pragma unroll
    for (int n = 0; n < N / 16; ++n) {
      uint32_t right[4];
      ldmatrix_x4(right, (b ^ (k << 5)) + n * 16 * kRowBytes);
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        mma_bf16(sum[m][2 * n], left[m], right[0], right[1]);
        mma_bf16(sum[m][2 * n + 1], left[m], right[2], right[3]);
      }
    }
  }
}

// sum[m] += round(p) times B, a [K, D] tile.
template <int D, int MT, int K>
__device__ __forceinline__ void accumulate(float (&sum)[MT][D / 8][4], const float (&p)[MT][K / 8][4],
                                           uint32_t b_rows) {
  const uint32_t b = left_lane<D>(b_rows);
#pragma unroll
  for (int k = 0; k < K / 16; ++k) {
    uint32_t left[MT][4];
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int r = 0; r < 4; ++r)
        left[m][r] = pack_bf16(p[m][2 * k + r / 2][r % 2 * 2], p[m][2 * k + r / 2][r % 2 * 2 + 1]);
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      uint32_t right[4];
      ldmatrix_x4_trans(right, (b ^ (n << 5)) + k * 16 * SharedTile<D>::kRowBytes);
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        mma_bf16(sum[m][2 * n], left[m], right[0], right[1]);
        mma_bf16(sum[m][2 * n + 1], left[m], right[2], right[3]);
      }
    }
  }
}

template <int MT, int D>
__device__ __forceinline__ void clear(float (&sum)[MT][D / 8][4]) {
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int i = 0; i < D / 8; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[m][i][e] = 0;
}

// ---- forward -------------------------------------------------------------------------------------------------------

template <int D>
struct ForwardShape {
  static constexpr int kMT = 2;
  static constexpr int kRows = 16 * kMT * kWarps;
  static constexpr int kKeys = 64;
  static constexpr int kBlocks = D >= 64 ? 2 : 3;
  static constexpr int kBytes = (kRows + 4 * kKeys) * 2 * D;
};

// out = sum / total, lse = top + log(total); everything about the place is computed again.
template <int D, bool kVector>
__device__ __forceinline__ void finish_forward(const AttentionArguments& a, const AttentionTile* __restrict__ tiles,
                                               float scale, uint32_t q_tile,
                                               float (&sum)[ForwardShape<D>::kMT][D / 8][4],
                                               const float (&top)[ForwardShape<D>::kMT][2],
                                               const float (&total)[ForwardShape<D>::kMT][2]) {
  constexpr int MT = ForwardShape<D>::kMT;
  const int block = block_index(), thread = thread_index();
  const int head = block % a.heads, lane = thread % 32, warp_row = thread / 32 * 16 * MT;
  const AttentionTile tile = tiles[block / a.heads];
  const int rows = min(ForwardShape<D>::kRows, tile.length - tile.first) - warp_row;
  if (rows <= 0) return;
  const int64_t row0 = static_cast<int64_t>(tile.start) + tile.first + warp_row;
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float all = total[m][h];
      all += __shfl_xor_sync(0xffffffffu, all, 1);
      all += __shfl_xor_sync(0xffffffffu, all, 2);
      const float inverse = 1.0f / all;
#pragma unroll
      for (int i = 0; i < D / 8; ++i) sum[m][i][2 * h] *= inverse, sum[m][i][2 * h + 1] *= inverse;
      const int row = m * 16 + h * 8 + lane / 4;
      if (lane % 4 == 0 && row < rows) a.lse[(row0 + row) * a.heads + head] = top[m][h] * scale + logf(all);
    }
  // The warp's own rows of Q are done with.
  store_rows<D, MT, kVector>(q_tile + warp_row * SharedTile<D>::kRowBytes, sum,
                             a.out + row0 * a.ld_out + head * a.head_dim, a.ld_out, rows, a.head_dim);
}

template <int D, bool kVector>
__global__ void __launch_bounds__(kThreads, ForwardShape<D>::kBlocks)
    forward_kernel(AttentionArguments a, const AttentionTile* __restrict__ tiles, float scale) {
  using Shape = ForwardShape<D>;
  using Tile = SharedTile<D>;
  constexpr int MT = Shape::kMT, kKeys = Shape::kKeys, kStage = 2 * kKeys * Tile::kRowBytes;
  extern __shared__ __align__(1024) uint8_t memory[];

  const int head = block_index() % a.heads, kv_head = head / (a.heads / a.kv_heads);
  const AttentionTile tile = tiles[block_index() / a.heads];
  const int rows = min(Shape::kRows, tile.length - tile.first);
  const int warp_row = threadIdx.x / 32 * 16 * MT;
  const int64_t row0 = static_cast<int64_t>(tile.start) + tile.first;
  const bf16* k = thread_source<D, kVector>(a.k + tile.start * a.ld_k + kv_head * a.head_dim, a.ld_k);
  const bf16* v = thread_source<D, kVector>(a.v + tile.start * a.ld_v + kv_head * a.head_dim, a.ld_v);

  const uint32_t q_tile = shared_address(memory), kv_tiles = q_tile + Shape::kRows * Tile::kRowBytes;
  const uint32_t q_rows = q_tile + warp_row * Tile::kRowBytes;
  int keys_left = tile.length;  // that were not asked for yet
  const auto load_stage = [&](int stage) {
    const uint32_t to = kv_tiles + stage * kStage;
    load_tile<D, kKeys, kVector>(to, k, a.ld_k, keys_left, a.head_dim);
    load_tile<D, kKeys, kVector>(to + kKeys * Tile::kRowBytes, v, a.ld_v, keys_left, a.head_dim);
    k += kKeys * a.ld_k, v += kKeys * a.ld_v, keys_left -= kKeys;
    cp_async_commit();
  };
  load_tile<D, Shape::kRows, kVector>(
      q_tile, thread_source<D, kVector>(a.q + row0 * a.ld_q + head * a.head_dim, a.ld_q), a.ld_q, rows, a.head_dim);
  load_stage(0);

  const float scale2 = scale * kLog2e;
  float sum[MT][D / 8][4];
  clear<MT, D>(sum);
  float top[MT][2], total[MT][2];  // of unscaled scores; total is of this lane's columns
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) top[m][h] = -kInfinity, total[m][h] = 0;

  // How far the warp's first row is ahead of the step's first key; a warp without rows stays behind all.
  int ahead = warp_row < rows ? tile.first + warp_row : -kFar;
  int stage = 0;
  for (int steps = (tile.first + rows + kKeys - 1) / kKeys; steps > 0; --steps, ahead -= kKeys, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();
    if (steps > 1) load_stage(stage ^ 1);
    // kKeys is a multiple of the warp's rows, so in a tile that is not skipped every row sees at least its first key.
    if (ahead <= -16 * MT) continue;

    const uint32_t kv = kv_tiles + stage * kStage;
    float p[MT][kKeys / 8][4];
    multiply_rows<D, MT, kKeys>(p, q_rows, kv);
    if (ahead < kKeys - 1) {
      const int lane = thread_index() % 32, seen = ahead + lane / 4 - lane % 4 * 2;
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int i = 0; i < kKeys / 8; ++i)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (i * 8 + e % 2 > seen + m * 16 + e / 2 * 8) p[m][i][e] = -kInfinity;
    }
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float peak = top[m][h];
#pragma unroll
        for (int i = 0; i < kKeys / 8; ++i) peak = fmaxf(peak, fmaxf(p[m][i][2 * h], p[m][i][2 * h + 1]));
        peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 1));
        peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 2));
        const float shift = peak * scale2, kept = exp2_fast(fmaf(top[m][h], scale2, -shift));
        top[m][h] = peak;
        float even = 0, odd = 0;
#pragma unroll
        for (int i = 0; i < kKeys / 8; ++i) {
          even += p[m][i][2 * h] = exp2_fast(fmaf(p[m][i][2 * h], scale2, -shift));
          odd += p[m][i][2 * h + 1] = exp2_fast(fmaf(p[m][i][2 * h + 1], scale2, -shift));
        }
        total[m][h] = fmaf(total[m][h], kept, even + odd);
#pragma unroll
        for (int i = 0; i < D / 8; ++i) sum[m][i][2 * h] *= kept, sum[m][i][2 * h + 1] *= kept;
      }
    accumulate<D, MT, kKeys>(sum, p, kv + kKeys * Tile::kRowBytes);
  }
  finish_forward<D, kVector>(a, tiles, scale, q_tile, sum, top, total);
}

// ---- backward ------------------------------------------------------------------------------------------------------

// D / 8 lanes a (row, head), eight columns each, ascending; then a butterfly over the lanes.
constexpr int kDeltaThreads = 256;
template <int D, bool kVector>
__global__ void __launch_bounds__(kDeltaThreads) delta_kernel(AttentionArguments a, int tokens) {
  constexpr int kLanes = D / 8;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kDeltaThreads / kLanes) + threadIdx.x / kLanes;
  const int head = blockIdx.y, column = threadIdx.x % kLanes * 8;
  float sum = 0;
  if (row < tokens && column < a.head_dim) {
    const bf16* out = a.out + row * a.ld_out + head * a.head_dim + column;
    const bf16* dout = a.dout + row * a.ld_dout + head * a.head_dim + column;
    uint32_t x[4], y[4];
    if constexpr (kVector) {
      const uint4 p = *reinterpret_cast<const uint4*>(out), q = *reinterpret_cast<const uint4*>(dout);
      x[0] = p.x, x[1] = p.y, x[2] = p.z, x[3] = p.w;
      y[0] = q.x, y[1] = q.y, y[2] = q.z, y[3] = q.w;
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const bool inside = column + 2 * e < a.head_dim;
        x[e] = inside ? *reinterpret_cast<const uint32_t*>(out + 2 * e) : 0;
        y[e] = inside ? *reinterpret_cast<const uint32_t*>(dout + 2 * e) : 0;
      }
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      sum = fmaf(__uint_as_float(x[e] << 16), __uint_as_float(y[e] << 16), sum);
      sum = fmaf(__uint_as_float(x[e] & 0xffff0000u), __uint_as_float(y[e] & 0xffff0000u), sum);
    }
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (row < tokens && column == 0) a.delta[head * a.padded_rows + row] = sum;
}

template <int D>
struct DkdvShape {
  static constexpr int kMT = D == 128 ? 1 : 2;
  static constexpr int kKeys = 16 * kMT * kWarps;
  static constexpr int kRows = D == 128 ? 64 : 32;
  static constexpr int kBlocks = 2;
  static constexpr int kTileBytes = (2 * kKeys + 4 * kRows) * 2 * D;
  static constexpr int kBytes = kTileBytes + 4 * kRows * 4;
};

template <int D, bool kVector>
__global__ void __launch_bounds__(kThreads, DkdvShape<D>::kBlocks)
    dkdv_kernel(AttentionArguments a, const AttentionTile* __restrict__ tiles, int tile_count, float scale) {
  using Shape = DkdvShape<D>;
  using Tile = SharedTile<D>;
  constexpr int MT = Shape::kMT, kKeys = Shape::kKeys, kRows = Shape::kRows, kStage = 2 * kRows * Tile::kRowBytes;
  extern __shared__ __align__(1024) uint8_t memory[];

  const int kv_head = block_index() % a.kv_heads, group = a.heads / a.kv_heads;
  const AttentionTile tile = tiles[tile_count - 1 - block_index() / a.kv_heads];
  const int keys = min(kKeys, tile.length - tile.first);
  const int warp_row = threadIdx.x / 32 * 16 * MT;
  const int64_t row0 = static_cast<int64_t>(tile.start) + tile.first;

  const uint32_t k_tile = shared_address(memory), v_tile = k_tile + kKeys * Tile::kRowBytes;
  const uint32_t q_tiles = v_tile + kKeys * Tile::kRowBytes;
  const uint32_t k_rows = k_tile + warp_row * Tile::kRowBytes, v_rows = v_tile + warp_row * Tile::kRowBytes;
  float* const statistics = reinterpret_cast<float*>(memory + Shape::kTileBytes);  // [stage][lse, delta][kRows]

  // Query rows beyond the end load as lse = delta = 0 and zero rows of Q and dO: P is 1 there and all its products are
  // 0.
  const int segment_end = tile.start + tile.length, span = tile.length - tile.first;
  const auto load_stage = [&](int stage, int head, int rows) {  // rows: to the segment's end
    const int64_t row = segment_end - rows;
    const uint32_t to = q_tiles + stage * kStage;
    load_tile<D, kRows, kVector>(to, thread_source<D, kVector>(a.q + row * a.ld_q + head * a.head_dim, a.ld_q), a.ld_q,
                                 rows, a.head_dim);
    load_tile<D, kRows, kVector>(to + kRows * Tile::kRowBytes,
                                 thread_source<D, kVector>(a.dout + row * a.ld_dout + head * a.head_dim, a.ld_dout),
                                 a.ld_dout, rows, a.head_dim);
    if (threadIdx.x < 2 * kRows) {
      const int i = threadIdx.x % kRows, which = threadIdx.x / kRows;
      const bool inside = i < rows;
      const float* from = which == 0 ? a.lse + (row + (inside ? i : 0)) * a.heads + head
                                     : a.delta + head * a.padded_rows + row + (inside ? i : 0);
      cp_async_4(shared_address(statistics) + (stage * 2 * kRows + threadIdx.x) * 4, from, inside);
    }
    cp_async_commit();
  };
  load_tile<D, kKeys, kVector>(k_tile, thread_source<D, kVector>(a.k + row0 * a.ld_k + kv_head * a.head_dim, a.ld_k),
                               a.ld_k, keys, a.head_dim);
  load_tile<D, kKeys, kVector>(v_tile, thread_source<D, kVector>(a.v + row0 * a.ld_v + kv_head * a.head_dim, a.ld_v),
                               a.ld_v, keys, a.head_dim);
  load_stage(0, kv_head * group, span);

  const float scale2 = scale * kLog2e;
  float dk[MT][D / 8][4], dv[MT][D / 8][4];
  clear<MT, D>(dk);
  clear<MT, D>(dv);

  // A step's place: its head, and the rows from its first query to the segment's end. The warp's first key is `ahead`
  // of that query; a warp without keys is ahead of all.
  const int ahead_of_end = warp_row < keys ? warp_row - span : kFar;
  int stage = 0, head = kv_head * group, left = span;
  for (int steps = group * ((span + kRows - 1) / kRows); steps > 0; --steps, stage ^= 1) {
    const int ahead = ahead_of_end + left;
    left -= kRows;
    if (left <= 0) left = span, ++head;
    cp_async_wait<0>();
    __syncthreads();
    if (steps > 1) load_stage(stage ^ 1, head, left);

    if (ahead < kRows) {
      const uint32_t q_rows = q_tiles + stage * kStage, do_rows = q_rows + kRows * Tile::kRowBytes;
      const float* lse = statistics + stage * 2 * kRows + thread_index() % 4 * 2;
      float p[MT][kRows / 8][4], ds[MT][kRows / 8][4];
      multiply_rows<D, MT, kRows>(p, k_rows, q_rows);
#pragma unroll
      for (int i = 0; i < kRows / 8; ++i) {
        const float2 log_sum = *reinterpret_cast<const float2*>(lse + i * 8);
        const float shift[2] = {log_sum.x * kLog2e, log_sum.y * kLog2e};
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
          for (int e = 0; e < 4; ++e) p[m][i][e] = exp2_fast(fmaf(p[m][i][e], scale2, -shift[e % 2]));
      }
      if (ahead + 16 * MT - 1 > 0) {
        const int lane = thread_index() % 32, unseen = ahead + lane / 4 - lane % 4 * 2;
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
          for (int i = 0; i < kRows / 8; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e)
              if (unseen + m * 16 + e / 2 * 8 > i * 8 + e % 2) p[m][i][e] = 0;
      }
      accumulate<D, MT, kRows>(dv, p, do_rows);
      multiply_rows<D, MT, kRows>(ds, v_rows, do_rows);
#pragma unroll
      for (int i = 0; i < kRows / 8; ++i) {
        const float2 delta = *reinterpret_cast<const float2*>(lse + kRows + i * 8);
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            ds[m][i][e] = p[m][i][e] * (ds[m][i][e] - (e % 2 == 0 ? delta.x : delta.y)) * scale;
      }
      accumulate<D, MT, kRows>(dk, ds, q_rows);
    }
  }

  const AttentionTile place = tiles[tile_count - 1 - block_index() / a.kv_heads];
  const int first_row = thread_index() / 32 * 16 * MT, rows = min(kKeys, place.length - place.first) - first_row;
  if (rows <= 0) return;
  const int64_t to = (static_cast<int64_t>(place.start) + place.first + first_row) * a.ld_dqkv +
                     block_index() % a.kv_heads * a.head_dim;
  // The warp's own rows of K and V are done with.
  store_rows<D, MT, kVector>(k_tile + first_row * Tile::kRowBytes, dk, a.dk + to, a.ld_dqkv, rows, a.head_dim);
  store_rows<D, MT, kVector>(v_tile + first_row * Tile::kRowBytes, dv, a.dv + to, a.ld_dqkv, rows, a.head_dim);
}

template <int D>
struct DqShape {
  static constexpr int kMT = 2;
  static constexpr int kRows = 16 * kMT * kWarps;
  static constexpr int kKeys = 32;
  static constexpr int kBlocks = D >= 64 ? 2 : 3;
  static constexpr int kBytes = (2 * kRows + 4 * kKeys) * 2 * D;
};

template <int D, bool kVector>
__global__ void __launch_bounds__(kThreads, DqShape<D>::kBlocks)
    dq_kernel(AttentionArguments a, const AttentionTile* __restrict__ tiles, float scale) {
  using Shape = DqShape<D>;
  using Tile = SharedTile<D>;
  constexpr int MT = Shape::kMT, kKeys = Shape::kKeys, kRows = Shape::kRows, kStage = 2 * kKeys * Tile::kRowBytes;
  extern __shared__ __align__(1024) uint8_t memory[];

  const int head = block_index() % a.heads, kv_head = head / (a.heads / a.kv_heads);
  const AttentionTile tile = tiles[block_index() / a.heads];
  const int rows = min(kRows, tile.length - tile.first);
  const int warp_row = threadIdx.x / 32 * 16 * MT;
  const int64_t row0 = static_cast<int64_t>(tile.start) + tile.first;
  const bf16* k = thread_source<D, kVector>(a.k + tile.start * a.ld_k + kv_head * a.head_dim, a.ld_k);
  const bf16* v = thread_source<D, kVector>(a.v + tile.start * a.ld_v + kv_head * a.head_dim, a.ld_v);

  const uint32_t q_tile = shared_address(memory), do_tile = q_tile + kRows * Tile::kRowBytes;
  const uint32_t kv_tiles = do_tile + kRows * Tile::kRowBytes;
  const uint32_t q_rows = q_tile + warp_row * Tile::kRowBytes, do_rows = do_tile + warp_row * Tile::kRowBytes;
  int keys_left = tile.length;  // that were not asked for yet
  const auto load_stage = [&](int stage) {
    const uint32_t to = kv_tiles + stage * kStage;
    load_tile<D, kKeys, kVector>(to, k, a.ld_k, keys_left, a.head_dim);
    load_tile<D, kKeys, kVector>(to + kKeys * Tile::kRowBytes, v, a.ld_v, keys_left, a.head_dim);
    k += kKeys * a.ld_k, v += kKeys * a.ld_v, keys_left -= kKeys;
    cp_async_commit();
  };
  load_tile<D, kRows, kVector>(q_tile, thread_source<D, kVector>(a.q + row0 * a.ld_q + head * a.head_dim, a.ld_q),
                               a.ld_q, rows, a.head_dim);
  load_tile<D, kRows, kVector>(do_tile,
                               thread_source<D, kVector>(a.dout + row0 * a.ld_dout + head * a.head_dim, a.ld_dout),
                               a.ld_dout, rows, a.head_dim);
  load_stage(0);

  float shift[MT][2], delta[MT][2];  // zero beyond the end: P is 1 there, dP and dS are 0
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = warp_row + m * 16 + h * 8 + thread_index() % 32 / 4;
      shift[m][h] = row < rows ? a.lse[(row0 + row) * a.heads + head] * kLog2e : 0;
      delta[m][h] = row < rows ? a.delta[head * a.padded_rows + row0 + row] : 0;
    }
  const float scale2 = scale * kLog2e;
  float dq[MT][D / 8][4];
  clear<MT, D>(dq);

  int ahead = warp_row < rows ? tile.first + warp_row : -kFar;  // as in the forward kernel
  int stage = 0;
  for (int steps = (tile.first + rows + kKeys - 1) / kKeys; steps > 0; --steps, ahead -= kKeys, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();
    if (steps > 1) load_stage(stage ^ 1);
    if (ahead <= -16 * MT) continue;

    const uint32_t k_tile = kv_tiles + stage * kStage, v_tile = k_tile + kKeys * Tile::kRowBytes;
    float p[MT][kKeys / 8][4], ds[MT][kKeys / 8][4];
    multiply_rows<D, MT, kKeys>(p, q_rows, k_tile);
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int i = 0; i < kKeys / 8; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) p[m][i][e] = exp2_fast(fmaf(p[m][i][e], scale2, -shift[m][e / 2]));
    if (ahead < kKeys - 1) {
      const int lane = thread_index() % 32, seen = ahead + lane / 4 - lane % 4 * 2;
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int i = 0; i < kKeys / 8; ++i)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (i * 8 + e % 2 > seen + m * 16 + e / 2 * 8) p[m][i][e] = 0;
    }
    multiply_rows<D, MT, kKeys>(ds, do_rows, v_tile);
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int i = 0; i < kKeys / 8; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) ds[m][i][e] = p[m][i][e] * (ds[m][i][e] - delta[m][e / 2]) * scale;
    accumulate<D, MT, kKeys>(dq, ds, k_tile);
  }

  const AttentionTile place = tiles[block_index() / a.heads];
  const int first_row = thread_index() / 32 * 16 * MT, left = min(kRows, place.length - place.first) - first_row;
  if (left <= 0) return;
  bf16* to = a.dq + (static_cast<int64_t>(place.start) + place.first + first_row) * a.ld_dqkv +
             block_index() % a.heads * a.head_dim;
  // The warp's own rows of Q are done with.
  store_rows<D, MT, kVector>(q_tile + first_row * Tile::kRowBytes, dq, to, a.ld_dqkv, left, a.head_dim);
}

// ---- launches ------------------------------------------------------------------------------------------------------

struct TileList {
  const AttentionTile* tiles;
  int32_t count;
};

TileList tiles_of(const Tables& tables, int rows) {
  return rows == 64 ? TileList{tables.tiles64, tables.tile64_count} : TileList{tables.tiles128, tables.tile128_count};
}

float score_scale(const AttentionArguments& a) { return 1.0f / std::sqrt(static_cast<float>(a.head_dim)); }

template <typename Kernel, typename... Values>
void launch(const char* name, Kernel kernel, int64_t blocks, int bytes, cudaStream_t stream, Values... values) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), name);
  kernel<<<static_cast<unsigned>(blocks), kThreads, static_cast<size_t>(bytes), stream>>>(values...);
  check_launch(name);
}

template <int D, bool kVector>
void forward(cudaStream_t stream, const Tables& tables, const AttentionArguments& a) {
  using Shape = ForwardShape<D>;
  const TileList list = tiles_of(tables, Shape::kRows);
  launch("attention forward", forward_kernel<D, kVector>, int64_t{list.count} * a.heads, Shape::kBytes, stream, a,
         list.tiles, score_scale(a));
}

template <int D, bool kVector>
void backward(cudaStream_t stream, const Tables& tables, const AttentionArguments& a) {
  constexpr int kDeltaRows = kDeltaThreads / (D / 8);
  delta_kernel<D, kVector>
      <<<dim3((tables.tokens + kDeltaRows - 1) / kDeltaRows, a.heads), kDeltaThreads, 0, stream>>>(a, tables.tokens);
  check_launch("attention delta");
  const TileList kv = tiles_of(tables, DkdvShape<D>::kKeys);
  launch("attention dkdv", dkdv_kernel<D, kVector>, int64_t{kv.count} * a.kv_heads, DkdvShape<D>::kBytes, stream, a,
         kv.tiles, kv.count, score_scale(a));
  const TileList q = tiles_of(tables, DqShape<D>::kRows);
  launch("attention dq", dq_kernel<D, kVector>, int64_t{q.count} * a.heads, DqShape<D>::kBytes, stream, a, q.tiles,
         score_scale(a));
}

// Whether every one of the matrices (null ones do not count) has rows aligned to so many bytes.
struct View {
  const bf16* data;
  int64_t ld;
};
template <int N>
bool aligned(const View (&views)[N], int bytes) {
  for (const View& view : views)
    if (view.data != nullptr && (reinterpret_cast<uintptr_t>(view.data) % bytes != 0 || view.ld * 2 % bytes != 0))
      return false;
  return true;
}

template <template <int, bool> class Run>
void dispatch(cudaStream_t stream, const Tables& tables, const AttentionArguments& a) {
  if (tables.tokens == 0) return;
  const int d = a.head_dim;
  const View views[] = {{a.q, a.ld_q},       {a.k, a.ld_k},     {a.v, a.ld_v},     {a.out, a.ld_out},
                        {a.dout, a.ld_dout}, {a.dq, a.ld_dqkv}, {a.dk, a.ld_dqkv}, {a.dv, a.ld_dqkv}};
  if (d < 2 || d > 128 || d % 2 != 0 || a.kv_heads < 1 || a.heads < 1 || a.heads % a.kv_heads != 0 ||
      !aligned(views, 4))
    throw Error(TL_INTERNAL, "attention: shape or alignment not supported");
  if (d % 8 == 0 && aligned(views, 16)) {
    if (d <= 16) return Run<16, true>::run(stream, tables, a);
    if (d <= 32) return Run<32, true>::run(stream, tables, a);
    if (d <= 64) return Run<64, true>::run(stream, tables, a);
    return Run<128, true>::run(stream, tables, a);
  }
  if (d <= 32) return Run<32, false>::run(stream, tables, a);
  return Run<128, false>::run(stream, tables, a);
}

template <int D, bool kVector>
struct Forward {
  static void run(cudaStream_t stream, const Tables& tables, const AttentionArguments& a) {
    forward<D, kVector>(stream, tables, a);
  }
};
template <int D, bool kVector>
struct Backward {
  static void run(cudaStream_t stream, const Tables& tables, const AttentionArguments& a) {
    backward<D, kVector>(stream, tables, a);
  }
};

}  // namespace

void attention_forward(cudaStream_t stream, const Tables& tables, const AttentionArguments& a) {
  dispatch<Forward>(stream, tables, a);
}

void attention_backward(cudaStream_t stream, const Tables& tables, const AttentionArguments& a) {
  dispatch<Backward>(stream, tables, a);
}

}  // namespace tlora::cuda
