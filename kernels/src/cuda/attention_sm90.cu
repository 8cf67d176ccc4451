// Attention for sm_90a (head_dim 64 and 128): wgmma fed by the tensor copy engine (TMA). Every kernel has one producer
// warpgroup (a warp of it loads tiles) and two consumer warpgroups of 64 rows each, a grid of one CTA for every
// multiprocessor, and CTAs that walk a fixed list of work items, heaviest first in snake order, so that the loads of
// the next item run under the products of this one.
//
// FORWARD   item = 128 query rows of one head. K/V tiles of 128 rows from position 0 up; S = Q K^T from shared memory,
//           softmax in registers, O += P V with P (bf16) as the register operand. P V of the tile before runs under the
//           softmax of a tile, and the two warpgroups take turns at the tensor cores (named barriers).
//           Shared memory, d = 128: Q 2 x 32 KB, K 2 x 32 KB, V 2 x 32 KB. Registers: S 64, P 32, O 64; 183 of 240.
// BACKWARD  delta = sum(out * dout), then two kernels of one shape: an owner tile of 128 rows (operands A and B) meets
//           a stream of 64-row tiles (X and Y):
//             dk, dv    owner (A, B) = (K, V),  stream (X, Y) = (Q, dO): q heads of the group in order, for each the
//                       query tiles from the diagonal up to the segment's end
//             dq        owner (A, B) = (Q, dO), stream (X, Y) = (K, V) from position 0 up to the diagonal
//           s = A X^T and t = B Y^T (m64n64), p = exp(s - lse), ds = p (t - delta) / sqrt(d); then, with p and ds in
//           bf16 as register operands, dv += p Y and dk += ds X, or dq += ds X, in registers over the whole list. Owner
//           rows are the rows of every accumulator, so p and ds never pass through shared memory. Where rotary positions
//           were applied to q and k (AttentionArguments::cosine), dq and dk turn back on their way out.
//           Shared memory, d = 128: owner 2 x 64 KB, stream 3 x 32 KB. Registers: s 32, t 32, p 16, ds 16, sums 128
//           (dk, dv) or 64 (dq); 231 and 152 of 240.
//
// BITS      A row of a tile depends on that row of A and on the stream's tiles, whose places depend on the segment: all
//           start at multiples of 64 or 128 of the positions in it. Rows of a tile beyond the segment's end belong to a
//           neighbour or to nobody. As rows of an accumulator they are not written; where they are summed over (V in
//           forward, X and Y in backward) zeros replace them in shared memory and their p is 0, so a neighbour's NaN
//           meets nothing.
// exp2      ex2.approx.ftz: 2 ulp of relative error, far under the bf16 rounding of P; results under 2^-126 become 0.
#include <cuda_bf16.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "cuda/check.h"
#include "cuda/hopper.h"
#include "cuda/kernels.h"
#include "cuda/rotary.h"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#pragma nv_diag_suppress 177  // unused: the kernels are empty there
#endif

namespace tlora::cuda {
namespace {

constexpr int kOwnerRows = 128;   // of a work item: 64 for each consumer warpgroup
constexpr int kThreads = 384;     // warpgroup 0: producer; 1 and 2: consumers
// Arrivals that hand a slot back. What threads have read themselves, they hand back themselves, each of them: racecheck follows
// no other order. Of tiles, which wgmma reads, a warp's first lane does.
constexpr int kReaders = 256, kReaderWarps = 8;
constexpr int kPanelColumns = 64;  // of a 128-byte row of a swizzled tile
constexpr int kPanelRowBytes = 128;
constexpr int kProducerRegisters = 24;
constexpr int kConsumerRegisters = 240;  // 128 * 24 + 256 * 240 <= 65,536
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// Item of a round for this CTA, of a list sorted by falling work: rounds alternate in direction.
__device__ __forceinline__ int item_of(int round) {
  const int grid = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  return round * grid + (round & 1 ? grid - 1 - block : block);
}

// A stage of a ring and the parity its barriers have there; a producer starts with phase 1: all stages are free.
template <int Stages>
struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void next() {
    if (++stage == Stages) {
      stage = 0;
      phase ^= 1u;
    }
  }
};

// ---- registers -----------------------------------------------------------------------------------------------------

// Nothing that reads or writes these registers moves across: the compiler does not see that a product is under way, nor
// that a wait does something to them.
template <int N>
__device__ __forceinline__ void hold(float (&r)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(r[i])::"memory");
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// The four lanes that share a row of an accumulator.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

// d[64 x N] += A[64 x 16] · B[16 x N], A from registers (pairs of 16 columns of an accumulator), B MN-major.
__device__ __forceinline__ void wgmma_rs(float (&d)[32], const uint32_t* a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void wgmma_rs(float (&d)[64], const uint32_t* a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
        "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
        "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
        "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// Columns [16 * i, 16 * i + 16) of an accumulator [64 x N] as the i-th A operand.
template <int N>
__device__ __forceinline__ void pack_operand(const float (&r)[N], uint32_t (&a)[N / 2]) {
#pragma unroll
  for (int i = 0; i < N / 2; ++i) a[i] = pack_pair(r[2 * i], r[2 * i + 1]);
}

// Rows of an accumulator [64 x N] times factor[half] as bf16 to memory. This thread's rows are `row` and row + 8,
// written where under `limit`; `to` is the place of the warpgroup's row 0. A quad's lanes trade words so that each
// writes 16 bytes at a time.
template <int N>
__device__ __forceinline__ void store_rows(const float (&r)[N], const float (&factor)[2], bf16* to, int64_t ld, int row,
                                           int limit, int lane) {
  const bool odd = lane & 1, high = lane & 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    bf16* const line = to + (row + 8 * half) * ld + 8 * (lane & 3);
    const bool real = row + 8 * half < limit;
#pragma unroll
    for (int group = 0; group < N / 16; ++group) {  // of four 8-column blocks; lane t of the quad ends with block t
      uint32_t word[4];
#pragma unroll
      for (int block = 0; block < 4; ++block) {
        const int at = 4 * (4 * group + block) + 2 * half;
        word[block] = pack_pair(r[at] * factor[half], r[at + 1] * factor[half]);
      }
      const uint32_t a = __shfl_xor_sync(~0u, odd ? word[0] : word[1], 1);
      const uint32_t b = __shfl_xor_sync(~0u, odd ? word[2] : word[3], 1);
      // Even lanes: words of blocks 0 and 2, odd lanes: of blocks 1 and 3.
      const uint32_t first0 = odd ? a : word[0], first1 = odd ? word[1] : a;
      const uint32_t second0 = odd ? b : word[2], second1 = odd ? word[3] : b;
      const uint32_t c = __shfl_xor_sync(~0u, high ? first0 : second0, 2);
      const uint32_t d = __shfl_xor_sync(~0u, high ? first1 : second1, 2);
      const uint4 packed = high ? make_uint4(c, d, second0, second1) : make_uint4(first0, first1, c, d);
      if (real) *reinterpret_cast<uint4*>(line + 32 * group) = packed;
    }
  }
}

// Rows of a gradient [64 x D] of rotated queries or keys become those of the unrotated ones, as rope_backward makes them: of
// the bf16 that would be stored, in fp32. A head's lower half meets its upper half in the same thread. Rows as in store_rows;
// `first` is the position of row 0.
template <int D>
__device__ __forceinline__ void rotate_rows_back(float (&r)[D / 2], const float* cosine, const float* sine, int first, int row,
                                                 int limit, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    // The tables end behind the longest segment.
    const int position = row + 8 * half < limit ? first + row + 8 * half : 0;
    const int64_t at = static_cast<int64_t>(position) * (D / 2) + 2 * (lane & 3);
#pragma unroll
    for (int block = 0; block < D / 16; ++block) {
      const float2 c = __ldg(reinterpret_cast<const float2*>(cosine + at + 8 * block));
      const float2 s = __ldg(reinterpret_cast<const float2*>(sine + at + 8 * block));
      float* const low = r + 4 * block + 2 * half;
      float* const high = low + D / 4;
      const uint32_t lows = pack_pair(low[0], low[1]), highs = pack_pair(high[0], high[1]);
      low[0] = __uint_as_float(lows << 16), low[1] = __uint_as_float(lows & 0xffff0000u);
      high[0] = __uint_as_float(highs << 16), high[1] = __uint_as_float(highs & 0xffff0000u);
      rotate(low[0], high[0], c.x, -s.x);
      rotate(low[1], high[1], c.y, -s.y);
    }
  }
}

// ---- tiles in shared memory -----------------------------------------------------------------------------------------

// A tile of Rows x D is D / 64 panels of Rows rows of 128 bytes.
template <int Rows, int D>
struct Tile {
  static constexpr int kPanels = D / kPanelColumns;
  static constexpr int kPanelBytes = Rows * kPanelRowBytes;
  static constexpr int kBytes = kPanels * kPanelBytes;

  // Boxes of BoxRows rows; one thread.
  template <int BoxRows>
  static __device__ __forceinline__ void load(char* tile, const CUtensorMap* map, uint64_t* barrier, int column,
                                              int row) {
#pragma unroll
    for (int panel = 0; panel < kPanels; ++panel)
#pragma unroll
      for (int first = 0; first < Rows; first += BoxRows)
        tma_load(tile + panel * kPanelBytes + first * kPanelRowBytes, map, barrier, column + panel * kPanelColumns,
                 row + first);
  }

  // Zeros from row `first` on; 128 threads. fence_async_shared and a barrier of the readers must follow.
  static __device__ __forceinline__ void clear(char* tile, int first, int thread) {
    const int vectors = (Rows - first) * (kPanelRowBytes / 16);
#pragma unroll 1
    for (int panel = 0; panel < kPanels; ++panel) {
      uint4* const from = reinterpret_cast<uint4*>(tile + panel * kPanelBytes + first * kPanelRowBytes);
#pragma unroll 1
      for (int i = thread; i < vectors; i += 128) from[i] = make_uint4(0, 0, 0, 0);
    }
  }

  // Descriptor offset of columns [16 * step, …) with K along the columns.
  static __device__ __forceinline__ constexpr uint64_t k_step(int step) {
    return static_cast<uint64_t>(step / 4 * (kPanelBytes >> 4)) + step % 4 * kDescriptorStepKMajor;
  }
};

// s[64 x N] = A · X^T over D columns: 64 rows of a tile A [128 x D] and all rows of a tile X [N x D].
template <int N, int D>
__device__ __forceinline__ void multiply_scores(float (&s)[N / 2], uint64_t a, uint64_t x) {
#pragma unroll
  for (int step = 0; step < D / 16; ++step)
    wgmma<N, 0>(s, a + Tile<kOwnerRows, D>::k_step(step), x + Tile<N, D>::k_step(step), step > 0);
}

// sum[64 x D] += P · X, P [64 x K] in registers, X a tile [K x D] by its MN-major descriptor.
template <int K, int D>
__device__ __forceinline__ void multiply_values(float (&sum)[D / 2], const uint32_t (&p)[K / 4], uint64_t x) {
#pragma unroll
  for (int step = 0; step < K / 16; ++step) wgmma_rs(sum, p + 4 * step, x + step * kDescriptorStepMnMajor);
}

__device__ __forceinline__ AttentionTile load_tile(const AttentionTile* tile) {
  const int4 v = __ldg(reinterpret_cast<const int4*>(tile));
  AttentionTile t;
  t.start = v.x, t.length = v.y, t.first = v.z;
  return t;
}

// Swizzled tiles begin at multiples of 1,024 bytes.
extern __shared__ __align__(1024) char attention_memory[];

// What a consumer needs to know of an item, left by the producer beside the item's tiles.
struct alignas(16) Item {
  int32_t start, length, first, head;
};

// ---- forward --------------------------------------------------------------------------------------------------------

template <int D>
struct ForwardMemory {
  static constexpr int kStages = D == 128 ? 2 : 4;
  static constexpr int kTile = Tile<kOwnerRows, D>::kBytes;
  static constexpr int kQ = 0, kK = 2 * kTile, kV = kK + kStages * kTile, kControl = kV + kStages * kTile;
  struct Control {
    Item item[2];
    uint64_t q_full[2], q_empty[2], k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
  };
  static constexpr int kBytes = kControl + static_cast<int>(sizeof(Control));
};

struct ForwardArguments {
  const AttentionTile* tiles;
  int32_t items, heads, group;
  bf16* out;
  int64_t ld_out;
  float* lse;
  float scale_log2;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// s becomes exp2((s - top) * scale): top is the running maximum of the row, sum the running sum of this thread's
// columns.
template <bool First, int N>
__device__ __forceinline__ void softmax(float (&s)[N], float (&top)[2], float (&sum)[2], float (&shrink)[2],
                                        float scale_log2) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float peak = s[2 * half];
#pragma unroll
    for (int i = 0; i < N / 4; ++i) peak = fmaxf(peak, fmaxf(s[4 * i + 2 * half], s[4 * i + 2 * half + 1]));
    peak = quad_max(peak);
    if (!First) {
      peak = fmaxf(peak, top[half]);
      shrink[half] = exp2_fast((top[half] - peak) * scale_log2);
    }
    top[half] = peak;
    const float offset = peak * scale_log2;
    float part = 0;
#pragma unroll
    for (int i = 0; i < N / 4; ++i)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& value = s[4 * i + 2 * half + e];
        value = exp2_fast(fmaf(value, scale_log2, -offset));
        part += value;
      }
    sum[half] = First ? part : fmaf(sum[half], shrink[half], part);
  }
}

// On the tile of the diagonal: columns after the row's own position. row, column: of the thread's first element.
template <int N>
__device__ __forceinline__ void mask_future(float (&s)[N], int row, int column) {
#pragma unroll
  for (int i = 0; i < N / 4; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (column + 8 * i + (e & 1) > row + 8 * (e >> 1)) s[4 * i + e] = -INFINITY;
}

#endif

// The two consumers alternate: bar.sync on one's own barrier before its products, an arrival on the other's after them.
constexpr bool kTakeTurns = true;
constexpr int kWarpgroupBarrier = 1;  // + consumer: of the 128 threads of a consumer
constexpr int kTurnBarrier = 3;       // + consumer
constexpr int kValuesBarrier = 5;     // + stage: of consumers and the two warps that load lse and delta
constexpr int kValuesThreads = 256 + 64;
__device__ __forceinline__ void arrive_barrier(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <int D>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
                   const __grid_constant__ CUtensorMap v_map, const ForwardArguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Memory = ForwardMemory<D>;
  using Rows = Tile<kOwnerRows, D>;
  constexpr int kStages = Memory::kStages;
  char* const memory = attention_memory;
  auto& control = *reinterpret_cast<typename Memory::Control*>(memory + Memory::kControl);
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);

  if (threadIdx.x == 0) {
    if (shared_address(memory) % 1024 != 0) __trap();
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(&control.q_full[i], 1);
      mbarrier_init(&control.q_empty[i], kReaders);
    }
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(&control.k_full[i], 1);
      mbarrier_init(&control.k_empty[i], kReaderWarps);
      mbarrier_init(&control.v_full[i], 1);
      mbarrier_init(&control.v_empty[i], kReaderWarps);
    }
    mbarrier_init_fence();
  }
  __syncthreads();

  if (warpgroup == 0) {
    registers_down<kProducerRegisters>();
    if (threadIdx.x == 0) {
      prefetch_map(&q_map);
      prefetch_map(&k_map);
      prefetch_map(&v_map);
      Ring<2> q_ring{0, 1};
      Ring<kStages> ring{0, 1};
      for (int round = 0, item; (item = item_of(round)) < a.items; ++round) {
        const int head = item % a.heads;
        const AttentionTile tile = load_tile(a.tiles + item / a.heads);
        mbarrier_wait(&control.q_empty[q_ring.stage], q_ring.phase);
        control.item[q_ring.stage] = {tile.start, tile.length, tile.first, head};
        mbarrier_arrive_expect(&control.q_full[q_ring.stage], Rows::kBytes);
        Rows::template load<kOwnerRows>(memory + Memory::kQ + q_ring.stage * Memory::kTile, &q_map,
                                        &control.q_full[q_ring.stage], head * D, tile.start + tile.first);
        q_ring.next();
        const int column = head / a.group * D;
#pragma unroll 1
        for (int at = 0; at <= tile.first; at += kOwnerRows) {
          mbarrier_wait(&control.k_empty[ring.stage], ring.phase);
          mbarrier_arrive_expect(&control.k_full[ring.stage], Rows::kBytes);
          Rows::template load<kOwnerRows>(memory + Memory::kK + ring.stage * Memory::kTile, &k_map,
                                          &control.k_full[ring.stage], column, tile.start + at);
          mbarrier_wait(&control.v_empty[ring.stage], ring.phase);
          mbarrier_arrive_expect(&control.v_full[ring.stage], Rows::kBytes);
          Rows::template load<kOwnerRows>(memory + Memory::kV + ring.stage * Memory::kTile, &v_map,
                                          &control.v_full[ring.stage], column, tile.start + at);
          ring.next();
        }
      }
    }
    return;
  }

  registers_up<kConsumerRegisters>();
  const int consumer = warpgroup - 1;
  const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
  const int row = thread / 32 * 16 + lane / 4;  // of the warpgroup's 64, and row + 8
  if (kTakeTurns && consumer == 1) arrive_barrier(kTurnBarrier, 256);

  Ring<2> q_ring;
  Ring<kStages> k_ring, v_ring;
  const auto release = [&](uint64_t* barrier) {
    if (lane == 0) mbarrier_arrive(barrier);
  };
  for (int round = 0; item_of(round) < a.items; ++round) {
    mbarrier_wait(&control.q_full[q_ring.stage], q_ring.phase);
    const Item item = control.item[q_ring.stage];
    const uint64_t q =
        descriptor_k_major(memory + Memory::kQ + q_ring.stage * Memory::kTile + consumer * 64 * kPanelRowBytes);
    const int tiles = item.first / kOwnerRows + 1;

    float s[64], out[D / 2], top[2], sum[2], shrink[2];
    uint32_t p[32];
#pragma unroll
    for (int i = 0; i < D / 2; ++i) out[i] = 0;

    mbarrier_wait(&control.k_full[k_ring.stage], k_ring.phase);
    hold(s);
    wgmma_fence();
    multiply_scores<kOwnerRows, D>(s, q, descriptor_k_major(memory + Memory::kK + k_ring.stage * Memory::kTile));
    wgmma_commit();
    wgmma_wait<0>();
    hold(s);
    release(&control.k_empty[k_ring.stage]);
    k_ring.next();
    if (tiles == 1) mask_future(s, consumer * 64 + row, 2 * (lane & 3));
    softmax<true>(s, top, sum, shrink, a.scale_log2);
    pack_operand(s, p);
    mbarrier_wait(&control.v_full[v_ring.stage], v_ring.phase);

    for (int j = 1; j < tiles; ++j) {
      mbarrier_wait(&control.k_full[k_ring.stage], k_ring.phase);
      if (kTakeTurns) named_barrier(kTurnBarrier + consumer, 256);
      hold(s);
      hold(out);
      wgmma_fence();
      multiply_scores<kOwnerRows, D>(s, q, descriptor_k_major(memory + Memory::kK + k_ring.stage * Memory::kTile));
      wgmma_commit();
      multiply_values<kOwnerRows, D>(
          out, p, descriptor_mn_major(memory + Memory::kV + v_ring.stage * Memory::kTile, Rows::kPanelBytes));
      wgmma_commit();
      if (kTakeTurns) arrive_barrier(kTurnBarrier + (consumer ^ 1), 256);
      wgmma_wait<1>();
      hold(s);
      release(&control.k_empty[k_ring.stage]);
      k_ring.next();
      if (j == tiles - 1) mask_future(s, consumer * 64 + row, 2 * (lane & 3));
      softmax<false>(s, top, sum, shrink, a.scale_log2);
      // The wait for the next V, a loop, also keeps ptxas from moving the wait for the product above the softmax.
      hold(s);
      uint64_t* const v_empty = &control.v_empty[v_ring.stage];
      v_ring.next();
      mbarrier_wait(&control.v_full[v_ring.stage], v_ring.phase);
      wgmma_wait<0>();
      hold(out);
      release(v_empty);
      pack_operand(s, p);
#pragma unroll
      for (int i = 0; i < D / 2; ++i) out[i] *= shrink[i / 2 % 2];
    }
    mbarrier_arrive(&control.q_empty[q_ring.stage]);

    char* const v_tile = memory + Memory::kV + v_ring.stage * Memory::kTile;
    const int real_rows = item.length - item.first;
    if (real_rows < kOwnerRows) {
      Rows::clear(v_tile, real_rows, thread);
      fence_async_shared();
      named_barrier(kWarpgroupBarrier + consumer, 128);
    }
    hold(out);
    wgmma_fence();
    multiply_values<kOwnerRows, D>(out, p, descriptor_mn_major(v_tile, Rows::kPanelBytes));
    wgmma_commit();

    // The tail of the row sums runs under the last product.
    float inverse[2];
    const int64_t first_row = item.start + item.first + consumer * 64;
    const int limit = real_rows - consumer * 64;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = quad_sum(sum[half]);
      inverse[half] = 1.0f / total;
      if (lane % 4 == 0 && row + 8 * half < limit)
        a.lse[(first_row + row + 8 * half) * a.heads + item.head] = (top[half] * a.scale_log2 + log2f(total)) * kLn2;
    }
    wgmma_wait<0>();
    hold(out);
    release(&control.v_empty[v_ring.stage]);
    v_ring.next();
    q_ring.next();
    store_rows(out, inverse, a.out + first_row * a.ld_out + item.head * D, a.ld_out, row, limit, lane);
  }
#endif
}

// ---- backward -------------------------------------------------------------------------------------------------------

// delta[h, row] = sum over the head's columns of out * dout: chains of 8 ascending, then a tree over the D / 8 lanes.
template <int D>
__global__ void __launch_bounds__(256)
    delta_kernel(const bf16* __restrict__ out, int64_t ld_out, const bf16* __restrict__ dout, int64_t ld_dout,
                 int64_t rows, int heads, float* __restrict__ delta, int64_t padded_rows) {
  constexpr int kLanes = D / 8;
  const int index = static_cast<int>(blockIdx.x * (256 / kLanes) + threadIdx.x / kLanes);  // row * heads + head
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t row = index / heads;
  const int head = index % heads;
  float sum = 0;
  if (row < rows) {
    const uint4 x = *reinterpret_cast<const uint4*>(out + row * ld_out + head * D + lane * 8);
    const uint4 y = *reinterpret_cast<const uint4*>(dout + row * ld_dout + head * D + lane * 8);
    const uint32_t xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum = fmaf(__uint_as_float(xs[i] << 16), __uint_as_float(ys[i] << 16), sum);
      sum = fmaf(__uint_as_float(xs[i] & 0xffff0000u), __uint_as_float(ys[i] & 0xffff0000u), sum);
    }
  }
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  if (row < rows && lane == 0) delta[head * padded_rows + row] = sum;
}

constexpr int kStreamRows = 64;

template <int D>
struct BackwardMemory {
  // At least 3: a consumer that skips a tile still holds the one before it while it waits for the one after it.
  static constexpr int kStages = 3;
  static constexpr int kOwnerTile = Tile<kOwnerRows, D>::kBytes, kStreamTile = Tile<kStreamRows, D>::kBytes;
  static constexpr int kOwner = 0, kStream = 2 * 2 * kOwnerTile, kControl = kStream + kStages * 2 * kStreamTile;
  struct Control {
    Item item[2];
    float lse[kStages][kStreamRows], delta[kStages][kStreamRows];  // dk, dv: of the queries, times log2(e), 1 / sqrt(d)
    uint64_t owner_full[2], owner_empty[2], stream_full[kStages], stream_empty[kStages];
  };
  static constexpr int kBytes = kControl + static_cast<int>(sizeof(Control));
};
static_assert(BackwardMemory<128>::kBytes <= 227 * 1024 && ForwardMemory<128>::kBytes <= 227 * 1024);

struct BackwardArguments {
  const AttentionTile* tiles;
  int32_t tile_count, items, heads, kv_heads, group;
  const float* lse;
  const float* delta;
  int64_t padded_rows;
  bf16* dq;
  bf16* dk;
  bf16* dv;
  int64_t ld;
  const float* cosine;  // null: dq and dk stay those of rotated queries and keys
  const float* sine;
  float scale, scale_log2;
};

// Keys: the owner rows are keys (dk, dv); otherwise queries (dq). Maps have boxes of 64 rows.
template <int D, bool Keys>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map,
                    const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap y_map,
                    const BackwardArguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Memory = BackwardMemory<D>;
  using Owner = Tile<kOwnerRows, D>;
  using Stream = Tile<kStreamRows, D>;
  constexpr int kStages = Memory::kStages;
  char* const memory = attention_memory;
  auto& control = *reinterpret_cast<typename Memory::Control*>(memory + Memory::kControl);
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
  const int lane = static_cast<int>(threadIdx.x) % 32;

  if (threadIdx.x == 0) {
    if (shared_address(memory) % 1024 != 0) __trap();
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(&control.owner_full[i], 1);
      mbarrier_init(&control.owner_empty[i], kReaders);
    }
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(&control.stream_full[i], Keys ? 1 + kStreamRows : 1);
      mbarrier_init(&control.stream_empty[i], kReaderWarps);
    }
    mbarrier_init_fence();
  }
  __syncthreads();

  if (warpgroup == 0) {
    registers_down<kProducerRegisters>();
    const int owner_heads = Keys ? a.kv_heads : a.heads;
    // The tiles are sorted for queries: last ones of long segments first. Early keys meet the most queries.
    const auto tile_of = [&](int place) { return load_tile(a.tiles + (Keys ? a.tile_count - 1 - place : place)); };
    if (threadIdx.x == 0) {
      prefetch_map(&a_map);
      prefetch_map(&b_map);
      prefetch_map(&x_map);
      prefetch_map(&y_map);
      Ring<2> owner_ring{0, 1};
      Ring<kStages> ring{0, 1};
      for (int round = 0, item; (item = item_of(round)) < a.items; ++round) {
        const int head = item % owner_heads;
        const AttentionTile tile = tile_of(item / owner_heads);
        const int begin = Keys ? tile.first : 0, end = Keys ? tile.length : min(tile.first + kOwnerRows, tile.length);
        mbarrier_wait(&control.owner_empty[owner_ring.stage], owner_ring.phase);
        control.item[owner_ring.stage] = {tile.start, tile.length, tile.first, head};
        uint64_t* const owner_full = &control.owner_full[owner_ring.stage];
        char* const owner = memory + Memory::kOwner + owner_ring.stage * 2 * Memory::kOwnerTile;
        mbarrier_arrive_expect(owner_full, 2 * Owner::kBytes);
        Owner::template load<kStreamRows>(owner, &a_map, owner_full, head * D, tile.start + tile.first);
        Owner::template load<kStreamRows>(owner + Memory::kOwnerTile, &b_map, owner_full, head * D,
                                          tile.start + tile.first);
        owner_ring.next();
        int stream_head = Keys ? head * a.group : head / a.group;
#pragma unroll 1
        for (const int last = Keys ? stream_head + a.group : stream_head + 1; stream_head < last; ++stream_head)
#pragma unroll 1
          for (int at = begin; at < end; at += kStreamRows) {
            mbarrier_wait(&control.stream_empty[ring.stage], ring.phase);
            uint64_t* const full = &control.stream_full[ring.stage];
            char* const to = memory + Memory::kStream + ring.stage * 2 * Memory::kStreamTile;
            mbarrier_arrive_expect(full, 2 * Stream::kBytes);
            Stream::template load<kStreamRows>(to, &x_map, full, stream_head * D, tile.start + at);
            Stream::template load<kStreamRows>(to + Memory::kStreamTile, &y_map, full, stream_head * D,
                                               tile.start + at);
            ring.next();
          }
      }
    } else if (Keys && threadIdx.x >= 64) {  // two warps: 64 query rows
      const int index = static_cast<int>(threadIdx.x) - 64;
      Ring<kStages> ring{0, 1};
      int used = 0;  // slots, until all have been
      for (int round = 0, item; (item = item_of(round)) < a.items; ++round) {
        const AttentionTile tile = tile_of(item / owner_heads);
        int head = item % owner_heads * a.group;
#pragma unroll 1
        for (const int last = head + a.group; head < last; ++head)
#pragma unroll 1
          for (int at = tile.first; at < tile.length; at += kStreamRows) {
            const bool real = at + index < tile.length;
            const int64_t row = tile.start + at + index;
            const float lse = real ? __ldg(a.lse + row * a.heads + head) : INFINITY;  // p = 0
            const float delta = real ? __ldg(a.delta + head * a.padded_rows + row) : 0.0f;
            if (used++ >= kStages) named_barrier(kValuesBarrier + ring.stage, kValuesThreads);
            control.lse[ring.stage][index] = lse * kLog2E;
            control.delta[ring.stage][index] = delta * a.scale;
            mbarrier_arrive(&control.stream_full[ring.stage]);
            ring.next();
          }
      }
    }
    return;
  }

  registers_up<kConsumerRegisters>();
  const int consumer = warpgroup - 1;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int row = thread / 32 * 16 + lane / 4;  // of the warpgroup's 64, and row + 8
  const int column = 2 * (lane & 3);            // + 8 * i + {0, 1}

  Ring<2> owner_ring;
  Ring<kStages> ring;
  // A tile; for dk, dv also the queries' lse and delta, by a barrier that a warp arrives on at once.
  const auto release = [&](int stage) {
    __syncwarp();
    if (lane == 0) mbarrier_arrive(&control.stream_empty[stage]);
    if (Keys) arrive_barrier(kValuesBarrier + stage, kValuesThreads);
  };
  for (int round = 0; item_of(round) < a.items; ++round) {
    mbarrier_wait(&control.owner_full[owner_ring.stage], owner_ring.phase);
    const Item item = control.item[owner_ring.stage];
    char* const owner =
        memory + Memory::kOwner + owner_ring.stage * 2 * Memory::kOwnerTile + consumer * 64 * kPanelRowBytes;
    const uint64_t owner_a = descriptor_k_major(owner), owner_b = descriptor_k_major(owner + Memory::kOwnerTile);
    const int own_first = item.first + consumer * 64;  // position of the warpgroup's row 0
    const int limit = item.length - own_first;         // its rows that are real; may be 0 or less
    const int begin = Keys ? item.first : 0, end = Keys ? item.length : min(item.first + kOwnerRows, item.length);
    const int64_t first_row = item.start + own_first;

    float own_lse[2], own_delta[2];  // dq: of the two rows
    if (!Keys)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t real_row = item.start + min(own_first + row + 8 * half, item.length - 1);
        own_lse[half] = __ldg(a.lse + real_row * a.heads + item.head);
        own_delta[half] = __ldg(a.delta + item.head * a.padded_rows + real_row);
      }

    float s[32], t[32], sum_x[D / 2], sum_y[Keys ? D / 2 : 1];
    uint32_t p[16], ds[16];
#pragma unroll
    for (int i = 0; i < D / 2; ++i) sum_x[i] = 0;
#pragma unroll
    for (int i = 0; i < (Keys ? D / 2 : 1); ++i) sum_y[i] = 0;
    int held = -1;  // stage that the last product still reads

    for (int repeat = Keys ? a.group : 1; repeat > 0; --repeat)
      for (int at = begin; at < end; at += kStreamRows) {
        mbarrier_wait(&control.stream_full[ring.stage], ring.phase);
        // All pairs of the tile are in the future, or none of the warpgroup's rows is real.
        if (limit <= 0 || (Keys ? at < own_first : at > own_first)) {
          release(ring.stage);
          ring.next();
          continue;
        }
        char* const x_tile = memory + Memory::kStream + ring.stage * 2 * Memory::kStreamTile;
        char* const y_tile = x_tile + Memory::kStreamTile;
        if (item.length - at < kStreamRows) {
          Stream::clear(x_tile, item.length - at, thread);
          Stream::clear(y_tile, item.length - at, thread);
          fence_async_shared();
          named_barrier(kWarpgroupBarrier + consumer, 128);
        }

        hold(s);
        wgmma_fence();
        multiply_scores<kStreamRows, D>(s, owner_a, descriptor_k_major(x_tile));
        wgmma_commit();
        wgmma_wait<1>();  // the last tile's product
        hold(sum_x);
        if (held >= 0) release(held);
        hold(t);
        wgmma_fence();
        multiply_scores<kStreamRows, D>(t, owner_b, descriptor_k_major(y_tile));
        wgmma_commit();
        held = ring.stage;
        wgmma_wait<1>();
        hold(s);

        float row_lse[2], row_delta[2];
        if (!Keys) {
          // Their products are not hoisted out of the loop, where they would wait for the loads.
          hold(own_lse);
          hold(own_delta);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            row_lse[half] = own_lse[half] * kLog2E;
            row_delta[half] = own_delta[half] * a.scale;
          }
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float2 of_column = *reinterpret_cast<const float2*>(&control.lse[ring.stage][column + 8 * i]);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float lse = Keys ? (e & 1 ? of_column.y : of_column.x) : row_lse[e >> 1];
            s[4 * i + e] = exp2_fast(fmaf(s[4 * i + e], a.scale_log2, -lse));
          }
        }
        if (at == own_first)
#pragma unroll
          for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const int of_row = row + 8 * (e >> 1), of_column = column + 8 * i + (e & 1);
              if (Keys ? of_column < of_row : of_column > of_row) s[4 * i + e] = 0;
            }
        if constexpr (Keys) {
          pack_operand(s, p);
          hold(sum_y);
          wgmma_fence();
          multiply_values<kStreamRows, D>(sum_y, p, descriptor_mn_major(y_tile, Stream::kPanelBytes));
          wgmma_commit();
          wgmma_wait<1>();
        } else {
          hold(s);  // the exponentials stay before the wait
          wgmma_wait<0>();
        }
        hold(t);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float2 of_column = *reinterpret_cast<const float2*>(&control.delta[ring.stage][column + 8 * i]);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float delta = Keys ? (e & 1 ? of_column.y : of_column.x) : row_delta[e >> 1];
            t[4 * i + e] = s[4 * i + e] * fmaf(t[4 * i + e], a.scale, -delta);
          }
        }
        pack_operand(t, ds);
        hold(sum_x);
        wgmma_fence();
        multiply_values<kStreamRows, D>(sum_x, ds, descriptor_mn_major(x_tile, Stream::kPanelBytes));
        wgmma_commit();
        if constexpr (Keys) {
          wgmma_wait<1>();  // frees the registers of p
          hold(sum_y);
        }
        ring.next();
      }
    wgmma_wait<0>();
    hold(sum_x);
    if (held >= 0) release(held);
    mbarrier_arrive(&control.owner_empty[owner_ring.stage]);
    owner_ring.next();

    const float one[2] = {1.0f, 1.0f};
    const int64_t at = first_row * a.ld + item.head * D;
    if (a.cosine) rotate_rows_back<D>(sum_x, a.cosine, a.sine, own_first, row, limit, lane);
    store_rows(sum_x, one, (Keys ? a.dk : a.dq) + at, a.ld, row, limit, lane);
    if constexpr (Keys) store_rows(sum_y, one, a.dv + at, a.ld, row, limit, lane);
  }
#endif
}

// ---- launches -------------------------------------------------------------------------------------------------------

int device_number() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

// Of the current device, asked once for each: its multiprocessors if it has compute capability 9.0, otherwise 0.
int hopper_multiprocessors() {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];  // + 1; 0: not asked yet
  const int device = device_number();
  if (device < kDevices)
    if (const int value = known[device].load(std::memory_order_relaxed)) return value - 1;
  int major = 0, minor = 0, count = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  if (major != 9 || minor != 0) count = 0;
  if (device < kDevices) known[device].store(count + 1, std::memory_order_relaxed);
  return count;
}

float score_scale(const AttentionArguments& a) { return 1.0f / std::sqrt(static_cast<float>(a.head_dim)); }

template <typename Kernel, typename... Values>
void launch(const char* name, Kernel kernel, int items, int bytes, cudaStream_t stream, const Values&... values) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), name);
  kernel<<<std::min(items, hopper_multiprocessors()), kThreads, bytes, stream>>>(values...);
  check_launch(name);
}

template <int D>
void forward(cudaStream_t stream, const Tables& tables, const AttentionArguments& a) {
  ForwardArguments f{};
  f.tiles = tables.tiles128;
  f.items = tables.tile128_count * a.heads;
  f.heads = a.heads;
  f.group = a.heads / a.kv_heads;
  f.out = a.out;
  f.ld_out = a.ld_out;
  f.lse = a.lse;
  f.scale_log2 = score_scale(a) * kLog2E;
  const auto map = [&](const bf16* base, int heads, int64_t ld) {
    return tensor_map(base, sizeof(bf16), a.rows, static_cast<int64_t>(heads) * D, ld, kOwnerRows, kPanelColumns);
  };
  launch("attention forward", forward_kernel<D>, f.items, ForwardMemory<D>::kBytes, stream, map(a.q, a.heads, a.ld_q),
         map(a.k, a.kv_heads, a.ld_k), map(a.v, a.kv_heads, a.ld_v), f);
}

template <int D>
void backward(cudaStream_t stream, const Tables& tables, const AttentionArguments& a) {
  constexpr int kDeltaThreads = 256;
  const int64_t threads = static_cast<int64_t>(tables.tokens) * a.heads * (D / 8);
  delta_kernel<D><<<static_cast<unsigned>((threads + kDeltaThreads - 1) / kDeltaThreads), kDeltaThreads, 0, stream>>>(
      a.out, a.ld_out, a.dout, a.ld_dout, tables.tokens, a.heads, a.delta, a.padded_rows);
  check_launch("attention delta");

  BackwardArguments b{};
  b.tiles = tables.tiles128;
  b.tile_count = tables.tile128_count;
  b.heads = a.heads;
  b.kv_heads = a.kv_heads;
  b.group = a.heads / a.kv_heads;
  b.lse = a.lse;
  b.delta = a.delta;
  b.padded_rows = a.padded_rows;
  b.dq = a.dq;
  b.dk = a.dk;
  b.dv = a.dv;
  b.ld = a.ld_dqkv;
  b.cosine = a.cosine;
  b.sine = a.sine;
  b.scale = score_scale(a);
  b.scale_log2 = b.scale * kLog2E;
  const auto map = [&](const bf16* base, int heads, int64_t ld) {
    return tensor_map(base, sizeof(bf16), a.rows, static_cast<int64_t>(heads) * D, ld, kStreamRows, kPanelColumns);
  };
  const CUtensorMap q = map(a.q, a.heads, a.ld_q), k = map(a.k, a.kv_heads, a.ld_k), v = map(a.v, a.kv_heads, a.ld_v),
                    dout = map(a.dout, a.heads, a.ld_dout);
  b.items = b.tile_count * a.kv_heads;
  launch("attention backward of keys", backward_kernel<D, true>, b.items, BackwardMemory<D>::kBytes, stream, k, v, q,
         dout, b);
  b.items = b.tile_count * a.heads;
  launch("attention backward of queries", backward_kernel<D, false>, b.items, BackwardMemory<D>::kBytes, stream, q,
         dout, k, v, b);
}

bool aligned(const void* base, int64_t ld) { return reinterpret_cast<uintptr_t>(base) % 16 == 0 && ld % 8 == 0; }

}  // namespace

bool attention_sm90_supports(const AttentionArguments& a) {
  return (a.head_dim == 64 || a.head_dim == 128) && a.kv_heads > 0 && a.heads % a.kv_heads == 0 && a.rows > 0 &&
         aligned(a.q, a.ld_q) && aligned(a.k, a.ld_k) && aligned(a.v, a.ld_v) && aligned(a.out, a.ld_out) &&
         aligned(a.dout, a.ld_dout) && aligned(a.dq, a.ld_dqkv) && aligned(a.dk, a.ld_dqkv) &&
         aligned(a.dv, a.ld_dqkv) && hopper_multiprocessors() > 0;
}

void attention_forward_sm90(cudaStream_t stream, const Tables& tables, const AttentionArguments& a) {
  if (tables.tile128_count == 0) return;
  if (a.head_dim == 128) {
    forward<128>(stream, tables, a);
  } else {
    forward<64>(stream, tables, a);
  }
}

void attention_backward_sm90(cudaStream_t stream, const Tables& tables, const AttentionArguments& a) {
  if (tables.tile128_count == 0) return;
  if (a.head_dim == 128) {
    backward<128>(stream, tables, a);
  } else {
    backward<64>(stream, tables, a);
  }
}

}  // namespace tlora::cuda
