// S = scale · drop(X) · A^T and dS = scale · dY · B, rounded to bf16.
//
// The contraction's blocks of 64 columns are cut into equal shares. A tile of at most 64 rows of one segment is done by a
// thread-block cluster, whose CTAs take 1, 2 or 4 shares each: few tiles are spread, many are done in one wave of long CTAs.
// Parts that share X (forward, no dropout) are columns of one product, so X is read once; otherwise every part has its own
// CTAs. Products wider than 64 strip columns (32 with four shares a CTA) read X again (from L2) for the next ones.
//
// Order of sums, a function of the contraction's width (and of the widest part's in its group) alone:
//   a share is two chains of mma k16 steps ascending, columns 0 … 31 and 32 … 63 of each block; share = first + second
//   chain; sum = share 0 + share 1 + …
// Code for architectures without clusters walks the shares in one CTA, in the same order.
//
// 4 warps: 2 (32 rows each) x 2 (the two chains). Stage: X or dY [64, 64] and up to 4 slices of weights, 16 KiB; 6
// stages (4 without clusters), all but one under way; the memory of the stages then serves the reduction (fp32 [64, 72]
// at most). Two CTAs per SM.
#include <cooperative_groups.h>

#include <algorithm>

#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/lora_tile.h"

namespace tlora::cuda {
namespace {

namespace cg = cooperative_groups;

constexpr int kMaxShares = 8;

// Narrow products get shares long enough to fill the pipeline; wide ones are spread for the sake of small batches.
int contraction_shares(int64_t width) { return width > 8192 ? kMaxShares : 4; }

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kClusters = true;
#else
constexpr bool kClusters = false;
#endif
// Without clusters the sum of the shares so far lies behind the stages.
constexpr int kStages = kClusters ? kLoraStages : 4;
static_assert((kLoraStages - 4) * kLoraStageBytes >= kTileRows * (kMaxSlices * kSlice + 8) * sizeof(float));

struct Product {
  const bf16* source;  // first row of the tile
  int64_t ld;
  int64_t width;
  int rows;
  uint32_t parts;      // whose slices, in order
  int per_part;        // slices of one part
  int first;           // slice of this turn
};

// Of all CTAs of a tile.
__device__ __forceinline__ void barrier_of_tile() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cg::this_cluster().sync();
#else
  __syncthreads();
#endif
}

// kShares: of this CTA, from share rank * kShares on.
template <bool kBackward, int kSlices, int kShares>
__device__ __forceinline__ void multiply(unsigned char* shared, const LoraGroup& group, const DeviceAdapter& adapter,
                                         const RowTile& tile, const Product& product, int shares, int rank) {
  const uint32_t stages = shared_address(shared);
  const int lane = threadIdx.x & 31, warp_row = threadIdx.x >> 5 & 1, warp_chain = threadIdx.x >> 6;

  const bf16* weight[kSlices];
  int64_t ld_weight[kSlices];
#pragma unroll
  for (int s = 0; s < kSlices; ++s) {
    const int part = nth_part(product.parts, (product.first + s) / product.per_part);
    const int column = adapter.home_column + (product.first + s) % product.per_part * kSlice;
    const Home& home = group.part[part].home;
    ld_weight[s] = kBackward ? home.ldb : home.lda;
    weight[s] = kBackward ? home.b + column : home.a + column * home.lda;
  }

  auto load = [&](int block, int stage) {
    const uint32_t at = stages + stage * kLoraStageBytes;
    const int64_t k = int64_t{block} * kWideColumns, columns = product.width - k;
    load_wide<64>(at, product.source + k, product.ld, product.rows, columns);
#pragma unroll
    for (int s = 0; s < kSlices; ++s) {
      const uint32_t slice = at + kWideBytes + s * kNarrowBytes;
      if (kBackward)
        load_narrow(slice, weight[s] + k * ld_weight[s], ld_weight[s], static_cast<int>(columns < 64 ? columns : 64));
      else
        load_wide<16>(slice, weight[s] + k, ld_weight[s], kSlice, columns);
    }
  };
  auto fragments = [&](uint32_t at, int step, uint32_t (&a)[2][4], uint32_t (&b)[kSlices][4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      ldmatrix_x4(a[i], at + wide_offset(warp_row * 32 + i * 16 + (lane & 15), step * 2 + (lane >> 4)));
#pragma unroll
    for (int s = 0; s < kSlices; ++s) {
      const uint32_t slice = at + kWideBytes + s * kNarrowBytes;
      if (kBackward)
        ldmatrix_x4_trans(b[s], slice + narrow_offset(step * 16 + (lane & 15), lane >> 4));
      else
        ldmatrix_x4(b[s], slice + wide_offset((lane & 7) + (lane >> 4 << 3), step * 2 + (lane >> 3 & 1)));
    }
  };

  // fp32 sums of the tile, of one share behind the other; the row stride is 8 modulo 32 words, so that a fragment's float2
  // stores meet no bank twice.
  constexpr int kStride = kSlices * kSlice + 8, kShareSums = kTileRows * kStride;
  static_assert(!kClusters || kShares * kShareSums * sizeof(float) <= kStages * kLoraStageBytes, "sums lie in the stages");
  float* const chain = reinterpret_cast<float*>(shared);
  float* const total = kClusters ? chain : reinterpret_cast<float*>(shared + kStages * kLoraStageBytes);
  auto pair_at = [&](float* sums, int i, int n, int half) {
    const int row = warp_row * 32 + i * 16 + half * 8 + (lane >> 2), column = n * 8 + (lane & 3) * 2;
    return reinterpret_cast<float2*>(sums + row * kStride + column);
  };

  const int blocks = static_cast<int>((product.width + kWideColumns - 1) / kWideColumns);
  const int share = (blocks + shares - 1) / shares;
#pragma unroll 1
  for (int r = kClusters ? rank * kShares : 0; r < (kClusters ? (rank + 1) * kShares : shares); r += kShares) {
    const int begin = min(r * share, blocks), count = min(kShares * share, blocks - begin);
    float acc[kShares][2][2 * kSlices][4] = {};
#pragma unroll 1
    for (int i = 0; i < kStages - 1; ++i) {
      if (i < count) load(begin + i, i);
      cp_async_commit();
    }
    int stage = 0, i = 0;
#pragma unroll
    for (int h = 0; h < kShares; ++h)
#pragma unroll 1
      for (const int end = min((h + 1) * share, count); i < end; ++i) {
        cp_async_wait<kStages - 2>();
        __syncthreads();
        // The stage that all warps finished before this barrier.
        if (i + kStages - 1 < count) load(begin + i + kStages - 1, stage == 0 ? kStages - 1 : stage - 1);
        cp_async_commit();
        const uint32_t at = stages + stage * kLoraStageBytes;
        uint32_t a[2][2][4], b[2][kSlices][4];
        fragments(at, 2 * warp_chain, a[0], b[0]);
        fragments(at, 2 * warp_chain + 1, a[1], b[1]);
#pragma unroll
        for (int step = 0; step < 2; ++step)
#pragma unroll
          for (int s = 0; s < kSlices; ++s)
#pragma unroll
            for (int m = 0; m < 2; ++m) {
              mma_bf16(acc[h][m][2 * s], a[step][m], b[step][s][0], b[step][s][1]);
              mma_bf16(acc[h][m][2 * s + 1], a[step][m], b[step][s][2], b[step][s][3]);
            }
        stage = stage + 1 == kStages ? 0 : stage + 1;
      }
    cp_async_wait<0>();
    __syncthreads();

    // The thread that reads an element of `chain` is the one that writes it to `total`, which may be the same memory.
    if (warp_chain == 1) {
#pragma unroll
      for (int h = 0; h < kShares; ++h)
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
          for (int n = 0; n < 2 * kSlices; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half)
              *pair_at(chain + h * kShareSums, m, n, half) = make_float2(acc[h][m][n][2 * half], acc[h][m][n][2 * half + 1]);
    }
    __syncthreads();
    if (warp_chain == 0) {
#pragma unroll
      for (int h = 0; h < kShares; ++h)
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
          for (int n = 0; n < 2 * kSlices; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              const float2 second = *pair_at(chain + h * kShareSums, m, n, half);
              float2 sum = make_float2(acc[h][m][n][2 * half] + second.x, acc[h][m][n][2 * half + 1] + second.y);
              float2* to = pair_at(total + h * kShareSums, m, n, half);
              if (!kClusters && r > 0) sum = make_float2(to->x + sum.x, to->y + sum.y);
              *to = sum;
            }
    }
    if (!kClusters) __syncthreads();  // the next share's stages overwrite `chain`
  }
  barrier_of_tile();

  constexpr int kFours = kSlices * kSlice / 4;
  const int ranks = shares / kShares;
  const int row_count = kClusters ? kTileRows / ranks : kTileRows, row_begin = kClusters ? rank * row_count : 0;
#pragma unroll 1
  for (int i = threadIdx.x; i < row_count * kFours; i += kLoraThreads) {
    const int row = row_begin + i / kFours, four = i % kFours;
    if (row >= tile.rows) continue;
    float4 sum;
    float* mine = total + row * kStride + four * 4;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    const cg::cluster_group cluster = cg::this_cluster();
    float4 of_share[kMaxShares];
#pragma unroll
    for (int r = 0; r < kMaxShares; ++r)
      if (r < shares)
        of_share[r] = *reinterpret_cast<const float4*>(cluster.map_shared_rank(mine + r % kShares * kShareSums, r / kShares));
    sum = of_share[0];
#pragma unroll
    for (int r = 1; r < kMaxShares; ++r)
      if (r < shares) {
        sum.x += of_share[r].x;
        sum.y += of_share[r].y;
        sum.z += of_share[r].z;
        sum.w += of_share[r].w;
      }
#else
    sum = *reinterpret_cast<const float4*>(mine);
#endif
    const int slice = product.first + four / 4;
    const LoraPart& part = group.part[nth_part(product.parts, slice / product.per_part)];
    const int column = adapter.batch_column + slice % product.per_part * kSlice + four % 4 * 4;
    uint2 packed;
    packed.x = pack_bf16(adapter.scale * sum.x, adapter.scale * sum.y);
    packed.y = pack_bf16(adapter.scale * sum.z, adapter.scale * sum.w);
    bf16* strip = kBackward ? part.strip_grad : part.strip;
    *reinterpret_cast<uint2*>(strip + int64_t{tile.start + row} * group.ld_strip + column) = packed;
  }
  // Nobody overwrites `total`, or leaves, while another CTA of the tile reads them.
  barrier_of_tile();
}

// Grid: x = tiles (x ranks with clusters), y = parts where they do not share X.
template <bool kBackward, int kShares>
__global__ void __launch_bounds__(kLoraThreads, 2)
    lora_down_kernel(const __grid_constant__ Tables tables, const __grid_constant__ LoraGroup group, int shares) {
  if constexpr (!kClusters && kShares > 1) return;  // one CTA has all the shares of a tile
  extern __shared__ __align__(128) unsigned char shared[];
  const int ranks = shares / kShares;
  const int rank = kClusters ? static_cast<int>(blockIdx.x) % ranks : 0;
  const RowTile tile = tables.row_tiles[kClusters ? blockIdx.x / ranks : blockIdx.x];
  DeviceAdapter adapter;
  if (tile.adapter >= 0) adapter = tables.adapters[tile.adapter];

  const int y = blockIdx.y;
  const bool dropout = !kBackward && tile.adapter >= 0 && adapter.drop_threshold != 0;
  const bool own_input = kBackward || dropout;
  if (!own_input && y > 0) return;
  const uint32_t parts = own_input ? 1u << y : (1u << group.parts) - 1;
  uint32_t active = 0;
  for (int p = 0; p < group.parts; ++p)
    if (tile.adapter >= 0 && (parts >> p & 1) && (adapter.targets >> group.part[p].module & 1)) active |= 1u << p;

  // Zeros wherever no product goes. The CTAs of a cluster share the rows.
  const int row_begin = kClusters ? rank * (kTileRows / ranks) : 0;
  const int row_count = min(kClusters ? kTileRows / ranks : kTileRows, tile.rows - row_begin);
  const int chunks = tables.strip_columns / 8;
  const int own_begin = adapter.batch_column / 8, own_end = own_begin + adapter.columns / 8;
  for (int p = 0; p < group.parts; ++p) {
    if (!(parts >> p & 1)) continue;
    bf16* strip = kBackward ? group.part[p].strip_grad : group.part[p].strip;
    strip += int64_t{tile.start + row_begin} * group.ld_strip;
    for (int i = threadIdx.x; i < row_count * chunks; i += kLoraThreads) {
      const int row = i / chunks, chunk = i - row * chunks;
      if ((active >> p & 1) && chunk >= own_begin && chunk < own_end) continue;
      *reinterpret_cast<uint4*>(strip + row * group.ld_strip + chunk * 8) = make_uint4(0, 0, 0, 0);
    }
  }
  if (active == 0) return;

  const LoraPart& part = group.part[__ffs(static_cast<int>(active)) - 1];
  Product product;
  product.ld = kBackward ? part.ld_dy : dropout ? part.ld_dropped : part.ld_x;
  product.source = (kBackward ? part.dy : dropout ? part.dropped : part.x) + tile.start * product.ld;
  product.width = kBackward ? part.out : part.in;
  product.rows = tile.rows;
  product.parts = active;
  product.per_part = adapter.columns / kSlice;
  constexpr int kMost = kShares == 4 ? 2 : kMaxSlices;  // what the registers hold
  const int slices = __popc(active) * product.per_part, turns = (slices + kMost - 1) / kMost;
  const int per_turn = (slices + turns - 1) / turns;
#pragma unroll 1
  for (product.first = 0; product.first < slices; product.first += per_turn) {
    switch (min(per_turn, slices - product.first)) {
      case 1: multiply<kBackward, 1, kShares>(shared, group, adapter, tile, product, shares, rank); break;
      case 2: multiply<kBackward, 2, kShares>(shared, group, adapter, tile, product, shares, rank); break;
      case 3:
        if constexpr (kMost >= 3) multiply<kBackward, 3, kShares>(shared, group, adapter, tile, product, shares, rank);
        break;
      default:
        if constexpr (kMost >= 4) multiply<kBackward, 4, kShares>(shared, group, adapter, tile, product, shares, rank);
    }
  }
}

struct Device {
  bool clusters;  // which of the two kinds of code it got (kClusters)
  int places;     // for CTAs at a time
};
Device device_of_kernel() {
  static const Device device = [] {
    cudaFuncAttributes code;
    check(cudaFuncGetAttributes(&code, lora_down_kernel<false, 1>), "lora_down");
    int number = 0, processors = 0;
    check(cudaGetDevice(&number), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, number), "cudaDeviceGetAttribute");
    return Device{code.ptxVersion >= 90, 2 * processors};  // ptxVersion is the code's own __CUDA_ARCH__ / 10
  }();
  return device;
}

// Shares a CTA, so that the waves of CTAs take least time: what a CTA needs beside its blocks is as long as 8 of them.
int shares_of_cta(int64_t tiles, int shares, int64_t blocks, int64_t slices, int places) {
  int best = 1;
  int64_t best_cost = 0;
  for (const int n : {1, 2, 4}) {
    if (n == 4 && slices > 2) continue;
    const int64_t ctas = tiles * (shares / n), cost = (ctas + places - 1) / places * (8 + blocks * n / shares);
    if (best_cost == 0 || cost < best_cost) {
      best = n;
      best_cost = cost;
    }
  }
  return best;
}

template <bool kBackward, int kShares>
void launch_shares(cudaStream_t stream, const Tables& tables, const LoraGroup& group, int parts, int shares, bool clusters) {
  const auto kernel = lora_down_kernel<kBackward, kShares>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kLoraSharedBytes), "lora_down");
  const int ranks = shares / kShares;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(ranks);
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim.x = static_cast<unsigned>(tables.row_tile_count * (clusters ? ranks : 1));
  config.gridDim.y = static_cast<unsigned>(parts);
  config.blockDim = dim3(kLoraThreads);
  config.dynamicSmemBytes = kLoraSharedBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = clusters ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, tables, group, shares),
        kBackward ? "lora_down_backward" : "lora_down_forward");
}

template <bool kBackward>
void launch(cudaStream_t stream, const Tables& tables, const LoraGroup& group) {
  if (tables.row_tile_count == 0 || tables.strip_columns == 0) return;
  int64_t width = 0;
  bool own_inputs = kBackward;
  for (int p = 0; p < group.parts; ++p) {
    width = std::max(width, kBackward ? group.part[p].out : group.part[p].in);
    own_inputs |= group.part[p].dropped != nullptr;
  }
  const int shares = contraction_shares(width), parts = own_inputs ? group.parts : 1;
  const Device device = device_of_kernel();
  // Of a middling adapter.
  const int64_t slices = (tables.strip_columns / tables.adapter_count + kSlice - 1) / kSlice * (own_inputs ? 1 : group.parts);
  const int per_cta = device.clusters ? shares_of_cta(int64_t{tables.row_tile_count} * parts, shares,
                                                      (width + kWideColumns - 1) / kWideColumns, slices, device.places)
                                      : 1;
  switch (per_cta) {
    case 1: launch_shares<kBackward, 1>(stream, tables, group, parts, shares, device.clusters); break;
    case 2: launch_shares<kBackward, 2>(stream, tables, group, parts, shares, device.clusters); break;
    default: launch_shares<kBackward, 4>(stream, tables, group, parts, shares, device.clusters);
  }
}

}  // namespace

void lora_down_forward(cudaStream_t stream, const Tables& tables, const LoraGroup& group) {
  launch<false>(stream, tables, group);
}

void lora_down_backward(cudaStream_t stream, const Tables& tables, const LoraGroup& group) {
  launch<true>(stream, tables, group);
}

}  // namespace tlora::cuda
