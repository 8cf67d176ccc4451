// gemm_generic(): the group GEMM of kernels.h with mma.sync, for every device from sm_80 on.
//
// A CTA owns 128 rows by 128 or 256 columns of the output: 2 x 2 or 2 x 4 warps of 64 x 64, fp32 accumulators in
// registers (128 per thread). K runs in steps of 32 through a ring of four stages that cp.async fills; fragments come
// by ldmatrix (transposing for B [k, n]) and are loaded one k16 slice ahead of the mma that uses them.
//   shared memory   64 KB (two CTAs per SM) or 96 KB (one)
//   registers       at most 255, no spills
//
// Order of sums: one chain of mma.m16n8k16 per output element: base k ascending, then the strips of part 0, 1, …, in
// each the chunks of the row's 128-row block in table order, in each the 16-column slices ascending. A K that is no
// multiple of 32 and a chunk of one or three slices are filled up with zeros, as the strips are in columns of other
// adapters: such a product leaves a sum as it is (but for -0, which the epilogue turns into +0). So neither the
// neighbours nor the tile shape nor m shows in a bit.
//
// Operand elements that are not the matrix's (k and beyond, n and beyond, rows m and beyond) are never read: cp.async
// gets the number of its own bytes and fills the rest of the 16 with zeros.
//
// Shared memory: A and k-major B as rows of 64 bytes, 16-byte piece c of row r at c ^ (r / 2 % 4); B [k, n] as rows of
// all the tile's columns, piece c of row r at c ^ (r % 8). Eight rows of one piece are what ldmatrix reads at once, and
// neighbouring pieces what a quarter warp of cp.async writes: both touch every bank once.
#include <algorithm>

#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/mma.h"

namespace tlora::cuda {
namespace {

constexpr int kTileM = 128;
constexpr int kTileK = 32;
constexpr int kStages = 4;
constexpr int kWarpM = 64;
constexpr int kWarpN = 64;
constexpr int kWarpRows = kTileM / kWarpM;
constexpr int kPiece = 8;      // bf16 in 16 bytes
constexpr int kRowBlocks = 8;  // row blocks that share their columns of B in L2
constexpr int kBytesA = kTileM * kTileK * 2;

template <int kWarpColumns>
constexpr int kThreads = 32 * kWarpRows * kWarpColumns;
template <int kWarpColumns>
constexpr int kStageBytes = kBytesA + kWarpN * kWarpColumns * kTileK * 2;

struct Problem {
  Gemm g;
  int row_blocks = 0;
  int column_tiles = 0;
  // Column ranges that no tile straddles: forward the parts, else one.
  int ranges = 1;
  int range_tiles[kMaxParts] = {};  // column tiles before the range's end
  int64_t range_first[kMaxParts] = {};
  int64_t range_end[kMaxParts] = {};
  bool wide_output = false;  // rows of out (and residual) are 16-byte aligned
};

// The first `bytes` (0 … 16) of the 16 at `source`, then zeros; with 0 the source is not read.
__device__ __forceinline__ void cp_async_16_bytes(uint32_t shared, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(source), "r"(bytes)
               : "memory");
}

// Brings the operands' K steps into shared memory, first the base's, then the strips': what one thread copies of each
// step.
template <bool kKMajor, int kWarpColumns>
class Feed {
  static constexpr int kAll = kThreads<kWarpColumns>;
  static constexpr int kTileN = kWarpN * kWarpColumns;
  static constexpr int kPiecesK = kTileK / kPiece;
  static constexpr int kPiecesN = kTileN / kPiece;
  static constexpr int kRowsA = kAll / kPiecesK;  // rows that all threads copy at once
  static constexpr int kRowsB = kKMajor ? kRowsA : kAll / kPiecesN;
  static constexpr int kPassesA = kTileM / kRowsA;
  static constexpr int kPassesB = (kKMajor ? kTileN : kTileK) / kRowsB;
  static_assert(kRowsA % 8 == 0 && kRowsB % 8 == 0, "the swizzle must not depend on the pass");

 public:
  __device__ Feed(const Problem& problem, int row_block, int range, int64_t column)
      : problem_(problem), column_(column) {
    const Gemm& g = problem.g;
    const int t = threadIdx.x;
    const int row_a = t / kPiecesK, piece = t % kPiecesK;
    piece_k_ = piece * kPiece;
    row_ = int64_t{row_block} * kTileM + row_a;
    rows_a_ = static_cast<int>(min(g.m - row_, int64_t{kTileM}));
    at_a_ = row_a * (kTileK * 2) + ((piece ^ (row_a / 2 % 4)) * 16);
    const int64_t columns = problem.range_end[range] - column;
    whole_tile_ = columns >= kTileN && g.m - int64_t{row_block} * kTileM >= kTileM;
    if (kKMajor) {
      row_b_ = row_a;
      rows_b_ = static_cast<int>(min(columns - row_b_, int64_t{kTileN}));
      at_b_ = at_a_;
    } else {
      row_b_ = t / kPiecesN;
      const int piece_n = t % kPiecesN;
      column_ += piece_n * kPiece;
      rows_b_ = static_cast<int>(max(min(columns - piece_n * kPiece, int64_t{kPiece}), int64_t{0})) * 2;
      at_b_ = row_b_ * (kTileN * 2) + ((piece_n ^ (row_b_ % 8)) * 16);
    }

    k_left_ = static_cast<int>(g.k);
    aim(g.a + row_ * g.lda, g.lda, g.b, g.ldb, 0);
    part_ = part_end_ = 0;
    if (g.strip != nullptr) {
      part_ = kKMajor ? range : 0;
      part_end_ = kKMajor ? range + 1 : g.parts;
      chunk_begin_ = chunk_ = __ldg(g.chunk_first + row_block);
      chunk_end_ = __ldg(g.chunk_first + row_block + 1);
    }
  }

  // Starts the copies of the next step into the stage at shared address `stage`; false: there is none left.
  __device__ bool copy_step(uint32_t stage) {
    if (k_left_ <= 0 && !next_chunk()) return false;
    const uint32_t to_a = stage + at_a_, to_b = stage + kBytesA + at_b_;
    constexpr int kPassBytesA = kRowsA * kTileK * 2, kPassBytesB = kRowsB * (kKMajor ? kTileK : kTileN) * 2;
    if (whole_tile_ && k_left_ >= kTileK) {
#pragma unroll
      for (int i = 0; i < kPassesA; ++i) cp_async_16_bytes(to_a + i * kPassBytesA, a_ + i * pass_a_, 16);
#pragma unroll
      for (int i = 0; i < kPassesB; ++i) cp_async_16_bytes(to_b + i * kPassBytesB, b_ + i * pass_b_, 16);
    } else {
      const int bytes_k = max(0, min(2 * (k_left_ - piece_k_), 16));
#pragma unroll
      for (int i = 0; i < kPassesA; ++i)
        cp_async_16_bytes(to_a + i * kPassBytesA, a_ + i * pass_a_, i * kRowsA < rows_a_ ? bytes_k : 0);
#pragma unroll
      for (int i = 0; i < kPassesB; ++i) {
        const int bytes =
            kKMajor ? (i * kRowsB < rows_b_ ? bytes_k : 0) : (row_b_ + i * kRowsB < k_left_ ? rows_b_ : 0);
        cp_async_16_bytes(to_b + i * kPassBytesB, b_ + i * pass_b_, bytes);
      }
    }
    a_ += kTileK;
    b_ += kKMajor ? kTileK : pass_b_ * kPassesB;
    k_left_ -= kTileK;
    return true;
  }

 private:
  // a: this thread's row of A at k = 0. b, first_k: the operand's (column or row) 0 at k = 0; k-major its first column
  // is first_k.
  __device__ void aim(const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int64_t first_k) {
    a_ = a + piece_k_;
    pass_a_ = kRowsA * lda;
    b_ = kKMajor ? b + (column_ + row_b_) * ldb + first_k + piece_k_ : b + (first_k + row_b_) * ldb + column_;
    pass_b_ = kRowsB * ldb;
  }

  __device__ bool next_chunk() {
    const Gemm& g = problem_.g;
    for (; part_ < part_end_; ++part_, chunk_ = chunk_begin_) {
      while (chunk_ < chunk_end_) {
        const StripChunk c = g.chunks[chunk_++];
        if ((c.targets & g.part_bit[part_]) == 0) continue;
        k_left_ = 16 * c.slices;
        aim(g.strip + (part_ * g.strip_rows + row_) * g.ld_strip + c.batch_column, g.ld_strip, g.home, g.ld_home,
            (kKMajor ? 0 : part_ * g.capacity) + c.home_column);
        return true;
      }
    }
    return false;
  }

  const Problem& problem_;
  int64_t column_;  // of the tile (k-major) or of this thread's piece
  int64_t row_;
  bool whole_tile_;  // no row or column of the tile lies outside the matrices
  int piece_k_, row_b_;
  int rows_a_, rows_b_;  // rows of the matrix from this thread's first one on; for B [k, n]: bytes of its piece
  uint32_t at_a_, at_b_;
  const bf16* a_;
  const bf16* b_;
  int64_t pass_a_, pass_b_;
  int k_left_;
  int part_, part_end_, chunk_ = 0, chunk_begin_ = 0, chunk_end_ = 0;
};

__device__ __forceinline__ void store(const Gemm& g, bool wide, int64_t row, int64_t column, int64_t end,
                                      const float (&bias)[8], float (&v)[8]) {
  // -0 and +0 of a sum depend on how many zeros were added to it; + 0.0f makes both +0.
  const bf16* residual = g.residual == nullptr ? nullptr : g.residual + row * g.ld_residual + column;
  if (wide && column + 8 <= end) {
    float r[8] = {};
    if (residual != nullptr) {
      const uint4 bits = *reinterpret_cast<const uint4*>(residual);
      const uint32_t pairs[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        r[2 * i] = __uint_as_float(pairs[i] << 16);
        r[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = v[i] + bias[i] + r[i] + 0.0f;
    if (g.out_fp32) {
      float4* out = reinterpret_cast<float4*>(static_cast<float*>(g.out) + row * g.ldc + column);
      out[0] = make_float4(v[0], v[1], v[2], v[3]);
      out[1] = make_float4(v[4], v[5], v[6], v[7]);
    } else {
      *reinterpret_cast<uint4*>(static_cast<bf16*>(g.out) + row * g.ldc + column) =
          make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (column + i >= end) continue;
    const float value = v[i] + bias[i] + (residual != nullptr ? __bfloat162float(residual[i]) : 0.0f) + 0.0f;
    if (g.out_fp32) {
      static_cast<float*>(g.out)[row * g.ldc + column + i] = value;
    } else {
      static_cast<bf16*>(g.out)[row * g.ldc + column + i] = __float2bfloat16_rn(value);
    }
  }
}

template <bool kKMajor, int kWarpColumns>
__global__ void __launch_bounds__(kThreads<kWarpColumns>, kWarpColumns == 2 ? 2 : 1)
    gemm_kernel(const __grid_constant__ Problem problem) {
  constexpr int kTileN = kWarpN * kWarpColumns;
  constexpr int kStep = kStageBytes<kWarpColumns>;
  extern __shared__ __align__(128) unsigned char shared[];
  const Gemm& g = problem.g;

  // Column tiles of a few row blocks before those of the next few.
  const int per_group = kRowBlocks * problem.column_tiles;
  const int group = blockIdx.x / per_group, in_group = blockIdx.x % per_group;
  const int group_rows = min(problem.row_blocks - group * kRowBlocks, kRowBlocks);
  const int row_block = group * kRowBlocks + in_group % group_rows;
  const int column_tile = in_group / group_rows;
  int range = 0;
  while (range + 1 < problem.ranges && column_tile >= problem.range_tiles[range]) ++range;
  const int64_t column =
      problem.range_first[range] + int64_t{column_tile - (range > 0 ? problem.range_tiles[range - 1] : 0)} * kTileN;

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_m = warp % kWarpRows * kWarpM, warp_n = warp / kWarpRows * kWarpN;

  Feed<kKMajor, kWarpColumns> feed(problem, row_block, range, column);
  const uint32_t base = shared_address(shared);

  // ldmatrix: lanes 8 i … 8 i + 7 give the rows of the i-th 8 x 8 matrix. A: (rows 0-7, k 0-7), (rows 8-15, k 0-7),
  // then k 8-15. k-major B: (n 0-7, k 0-7), (n 0-7, k 8-15), then n 8-15; B [k, n] the same, its rows being k.
  const uint32_t lane_a = (warp_m + lane % 16) * (kTileK * 2) + ((lane / 16) ^ (lane / 2 % 4)) * 16;
  const uint32_t lane_b =
      kBytesA + (kKMajor ? (warp_n + lane % 8 + lane / 16 * 8) * (kTileK * 2) + ((lane / 8 % 2) ^ (lane / 2 % 4)) * 16
                         : lane % 16 * (kTileN * 2) + warp_n * 2 + ((lane / 16) ^ (lane % 8)) * 16);

  uint32_t a[2][4][4], b[2][8][2];
  const auto load_slice = [&](uint32_t stage, int slice, int set) {
    const uint32_t from_a = (stage + lane_a) ^ (slice * 32);
#pragma unroll
    for (int i = 0; i < 4; ++i) ldmatrix_x4(a[set][i], from_a + i * 16 * kTileK * 2);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      uint32_t r[4];
      if (kKMajor) {
        ldmatrix_x4(r, ((stage + lane_b) ^ (slice * 32)) + j * 16 * kTileK * 2);
      } else {
        ldmatrix_x4_trans(r, ((stage + lane_b) ^ (j * 32)) + slice * 16 * kTileN * 2);
      }
      b[set][2 * j][0] = r[0];
      b[set][2 * j][1] = r[1];
      b[set][2 * j + 1][0] = r[2];
      b[set][2 * j + 1][1] = r[3];
    }
  };

  float sum[4][8][4] = {};
  const auto multiply = [&](int set) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j) mma_bf16(sum[i][j], a[set][i], b[set][j]);
  };

  int copied = 0;
#pragma unroll 1
  for (int s = 0; s < kStages - 1; ++s) {
    copied += feed.copy_step(base + s * kStep);
    cp_async_commit();
  }
  cp_async_wait<kStages - 2>();
  __syncthreads();

  uint32_t read = base, write = base + (kStages - 1) * kStep;
  const uint32_t wrap = base + kStages * kStep;
  load_slice(read, 0, 0);
  for (int step = 0; step < copied; ++step) {
    load_slice(read, 1, 1);
    // The stage written here was last read before the barrier of the previous step.
    copied += feed.copy_step(write);
    cp_async_commit();  // an empty group too: the wait below counts groups
    multiply(0);
    read += kStep;
    write += kStep;
    if (read == wrap) read = base;
    if (write == wrap) write = base;
    cp_async_wait<kStages - 2>();
    __syncthreads();
    load_slice(read, 0, 0);  // after the last step: whatever lies there, not used
    multiply(1);
  }

  // A thread has columns 2 t, 2 t + 1 (t = lane % 4) of each 8-column tile; four lanes trade so that each has all eight
  // columns of one tile out of four.
  const int64_t first_row = int64_t{row_block} * kTileM + warp_m + lane / 4;
  const int64_t end = problem.range_end[range];
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    const int64_t own_column = column + warp_n + q * 32 + lane % 4 * 8;
    const bool wide = problem.wide_output && own_column % 8 == 0;
    float bias[8] = {};
    if (g.bias != nullptr) {
#pragma unroll
      for (int c = 0; c < 8; ++c) bias[c] = own_column + c < end ? __ldg(g.bias + own_column + c) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float v[4][2];
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int c = 0; c < 2; ++c) v[j][c] = sum[i][4 * q + j][2 * half + c];
#pragma unroll
        for (int bit = 1; bit <= 2; bit *= 2) {
          const bool upper = (lane & bit) != 0;
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            if (j & bit) continue;
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const float got = __shfl_xor_sync(0xffffffffu, upper ? v[j][c] : v[j | bit][c], bit);
              if (upper) {
                v[j][c] = got;
              } else {
                v[j | bit][c] = got;
              }
            }
          }
        }
        const int64_t row = first_row + i * 16 + half * 8;
        float eight[8];
#pragma unroll
        for (int c = 0; c < 8; ++c) eight[c] = v[c / 2][c % 2];
        if (row < g.m && own_column < end) store(g, wide, row, own_column, end, bias, eight);
      }
    }
  }
}

template <bool kKMajor, int kWarpColumns>
void launch(cudaStream_t stream, Problem& p) {
  constexpr int kTileN = kWarpN * kWarpColumns;
  constexpr int kSharedBytes = kStages * kStageBytes<kWarpColumns>;
  int tiles = 0;
  for (int r = 0; r < p.ranges; ++r) {
    tiles += static_cast<int>((p.range_end[r] - p.range_first[r] + kTileN - 1) / kTileN);
    p.range_tiles[r] = tiles;
  }
  p.column_tiles = tiles;
  const auto kernel = gemm_kernel<kKMajor, kWarpColumns>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
        "gemm_generic attribute");
  kernel<<<static_cast<unsigned>(tiles) * static_cast<unsigned>(p.row_blocks), kThreads<kWarpColumns>, kSharedBytes,
           stream>>>(p);
  check_launch("gemm_generic");
}

bool aligned16(const void* pointer, int64_t row_bytes) {
  return (reinterpret_cast<uintptr_t>(pointer) | static_cast<uintptr_t>(row_bytes)) % 16 == 0;
}

}  // namespace

void gemm_generic(cudaStream_t stream, const Gemm& g) {
  if (g.m <= 0 || g.n <= 0) return;
  Problem p;
  p.g = g;
  p.row_blocks = static_cast<int>((g.m + kTileM - 1) / kTileM);
  p.range_end[0] = g.n;
  if (g.strip != nullptr && g.b_is_k_major) {
    int64_t column = 0;
    p.ranges = g.parts;
    for (int part = 0; part < g.parts; ++part) {
      p.range_first[part] = column;
      column += g.part_n[part];
      p.range_end[part] = column;
    }
    if (column != g.n) throw Error(TL_INTERNAL, "gemm_generic: the parts do not add up to n");
  }
  p.wide_output = aligned16(g.out, g.ldc * (g.out_fp32 ? 4 : 2)) && aligned16(g.residual, g.ld_residual * 2);

  // Wide tiles read less, small problems need every SM: both give the same bits.
  int device = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  const bool wide = (g.n + 255) / 256 * p.row_blocks >= 2 * multiprocessors;
  if (g.b_is_k_major) {
    wide ? launch<true, 4>(stream, p) : launch<true, 2>(stream, p);
  } else {
    wide ? launch<false, 4>(stream, p) : launch<false, 2>(stream, p);
  }
}

}  // namespace tlora::cuda
