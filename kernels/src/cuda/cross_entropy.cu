// Loss, accuracy and dlogits of rows of fp32 logits. Large vocabularies on Hopper: cross_entropy_sm90.cu.
//
// The target is the lowest id of the largest logit exactly when no earlier logit is >= the target's and no later one is >.
// dlogits are bf16 at the start of the row's own memory: element c lies on bytes of logit c / 2, so everything that covers
// an element is read before it is written.
//
// Cluster path (compute capability 9.0 or more, vocabularies to 262,144): a cluster of 8 blocks of 512 threads owns a row
// and holds it in registers, so a logit is read once. Block b has the columns from b · 2048 · Vectors on; thread t the four from
// t · 4 of every 2,048. Sums: a thread its own by ascending column, a butterfly over the warp, warps ascending, all relative
// to the block's largest logit; then blocks ascending, scaled to the row's. The cluster's one barrier lies between the last
// read and the first write. Registers: 4 · Vectors for the row (Vectors from the vocabulary: 1, 2, 4, 8, 12, 16).
//
// Streaming path (any device, any vocabulary): one block of 512 threads owns a row and reads it twice: running maximum and
// sum per thread over its groups of four columns, combined in the same order; then exponentials again, chunk by chunk, with a
// barrier between reading a chunk and writing it.
#include "cuda/cross_entropy.h"

#include "cuda/check.h"
#include "cuda/kernels.h"

namespace tlora::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kClusterBlocks = 8;
constexpr int kChunkVectors = 4;  // of the streaming path

// Four logits from `column` on; -inf from the end of the vocabulary on.
__device__ __forceinline__ float4 load_logits(const float* row, int column, int vocab) {
  if (column >= vocab) return make_float4(lowest(), lowest(), lowest(), lowest());
  const uint4 raw = load_once(row + column);
  return make_float4(__uint_as_float(raw.x), __uint_as_float(raw.y), __uint_as_float(raw.z), __uint_as_float(raw.w));
}
__device__ __forceinline__ void mask_tail(float4& v, int column, int vocab) {
  if (column + 4 <= vocab || column >= vocab) return;
  if (column + 1 >= vocab) v.y = lowest();
  if (column + 2 >= vocab) v.z = lowest();
  v.w = lowest();
}

// Whether a logit of v stands before the target in the order of largest value, lowest id.
__device__ __forceinline__ bool beats(const float4& v, int column, int target, float target_logit) {
  if (column + 3 < target) return v.x >= target_logit | v.y >= target_logit | v.z >= target_logit | v.w >= target_logit;
  if (column >= target) return v.x > target_logit | v.y > target_logit | v.z > target_logit | v.w > target_logit;
  bool beaten = v.x >= target_logit;
  beaten |= column + 1 < target ? v.y >= target_logit : v.y > target_logit;
  beaten |= column + 2 < target ? v.z >= target_logit : v.z > target_logit;
  return beaten | v.w > target_logit;
}

// Of the whole block, to all threads; `any` too. `scratch`: a float per warp.
__device__ __forceinline__ float block_max(float v, bool& any, float* scratch) {
  v = warp_max(v);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  any = __syncthreads_or(any);
  return warp_max(threadIdx.x % 32 < kWarps ? scratch[threadIdx.x % 32] : lowest());
}

// The dlogits of four columns: exponential * factor, less `scale` at the target.
__device__ __forceinline__ void store_gradients(bf16* row, int column, int vocab, int target, float4 e, float factor,
                                                float scale) {
  float d[4] = {e.x * factor, e.y * factor, e.z * factor, e.w * factor};
  if (target >= column && target < column + 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (column + i == target) d[i] -= scale;
  }
  if (column + 4 <= vocab) {
    *reinterpret_cast<uint2*>(row + column) = make_uint2(pack2(d[0], d[1]), pack2(d[2], d[3]));
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (column + i < vocab) row[column + i] = __float2bfloat16_rn(d[i]);
}

// ---- cluster path ---------------------------------------------------------------------------------------------------------

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
// Shared memory of block `block` of the cluster.
__device__ __forceinline__ float load_remote(const float* own, uint32_t block) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(own));
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(block));
  float v;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(remote) : "memory");
  return v;
}
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
#endif

template <int Vectors>
__global__ __launch_bounds__(kThreads) void cluster_kernel(CrossEntropy c) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __shared__ float max_scratch[kWarps], sum_scratch[kWarps];
  __shared__ float shared[3];  // this block's largest logit, sum relative to it, 1 if the target is beaten
  const int64_t i = blockIdx.x / kClusterBlocks;
  const int block = static_cast<int>(blockIdx.x % kClusterBlocks), lane = static_cast<int>(threadIdx.x) % 32;
  float* row = c.logits + i * c.ld;
  const int first = block * (Vectors * kThreads * 4) + static_cast<int>(threadIdx.x) * 4;
  const int target = c.targets[i];

  float4 v[Vectors];
#pragma unroll
  for (int k = 0; k < Vectors; ++k) v[k] = load_logits(row, first + k * kThreads * 4, c.vocab);
  const float target_logit = row[target];
#pragma unroll
  for (int k = 0; k < Vectors; ++k) mask_tail(v[k], first + k * kThreads * 4, c.vocab);

  bool beaten = false;
  float peak = lowest();
#pragma unroll
  for (int k = 0; k < Vectors; ++k) {
    const int column = first + k * kThreads * 4;
    peak = fmaxf(peak, largest(v[k]));
    beaten |= column < c.vocab && beats(v[k], column, target, target_logit);
  }
  const float block_top = block_max(peak, beaten, max_scratch), base = base_of(block_top);
  float part = 0.0f;
#pragma unroll
  for (int k = 0; k < Vectors; ++k) {
    v[k] = make_float4(expf(v[k].x - base), expf(v[k].y - base), expf(v[k].z - base), expf(v[k].w - base));
    part += v[k].x;
    part += v[k].y;
    part += v[k].z;
    part += v[k].w;
  }
  part = block_sum<kThreads>(part, sum_scratch);
  if (threadIdx.x == 0) {
    shared[0] = block_top;
    shared[1] = part;
    shared[2] = beaten ? 1.0f : 0.0f;
  }
  cluster_arrive();
  cluster_wait();

  // Lane l of every warp looks at block l % 8.
  const uint32_t peer = static_cast<uint32_t>(lane) % kClusterBlocks;
  const float peer_top = load_remote(&shared[0], peer), peer_sum = load_remote(&shared[1], peer);
  beaten = __any_sync(0xffffffffu, load_remote(&shared[2], peer) != 0.0f);
  cluster_arrive();  // this block's shared memory must outlive the others' reads: waited for at the end
  const float top = warp_max(peer_top);
  // A block of -inf only has the sum 0, which no scaling may touch.
  const float scaled = peer_sum == 0.0f ? 0.0f : peer_sum * expf(base_of(peer_top) - top);
  float sum = 0.0f;
#pragma unroll
  for (int b = 0; b < kClusterBlocks; ++b) sum += __shfl_sync(0xffffffffu, scaled, b);

  if (block == 0 && threadIdx.x == 0) report(c, i, sum, top, target_logit, beaten);
  if (c.scale) {
    const float scale = c.scale[i];
    const float factor = block_top == lowest() ? 0.0f : __fdiv_rn(scale, sum) * expf(base - top);
    bf16* out = reinterpret_cast<bf16*>(row);
#pragma unroll
    for (int k = 0; k < Vectors; ++k) {
      const int column = first + k * kThreads * 4;
      if (column < c.vocab) store_gradients(out, column, c.vocab, target, v[k], factor, scale);
    }
  }
  cluster_wait();
#endif
}

// ---- streaming path -------------------------------------------------------------------------------------------------------

__global__ __launch_bounds__(kThreads) void streaming_kernel(CrossEntropy c) {
  __shared__ float max_scratch[kWarps], sum_scratch[kWarps];
  constexpr int kChunk = kThreads * kChunkVectors * 4;
  const int64_t i = blockIdx.x;
  float* row = c.logits + i * c.ld;
  const int own = static_cast<int>(threadIdx.x) * 4;
  const int target = c.targets[i];
  const float target_logit = row[target];

  bool beaten = false;
  float peak = lowest(), part = 0.0f;
  for (int chunk = 0; chunk < c.vocab; chunk += kChunk) {
    float4 v[kChunkVectors];
#pragma unroll
    for (int k = 0; k < kChunkVectors; ++k) v[k] = load_logits(row, chunk + own + k * kThreads * 4, c.vocab);
    float higher = peak;
#pragma unroll
    for (int k = 0; k < kChunkVectors; ++k) {
      const int column = chunk + own + k * kThreads * 4;
      mask_tail(v[k], column, c.vocab);
      higher = fmaxf(higher, largest(v[k]));
      beaten |= column < c.vocab && beats(v[k], column, target, target_logit);
    }
    const float base = base_of(higher);
    if (higher != peak) {
      part = part == 0.0f ? 0.0f : part * expf(base_of(peak) - base);
      peak = higher;
    }
#pragma unroll
    for (int k = 0; k < kChunkVectors; ++k) {
      part += expf(v[k].x - base);
      part += expf(v[k].y - base);
      part += expf(v[k].z - base);
      part += expf(v[k].w - base);
    }
  }
  const float top = block_max(peak, beaten, max_scratch), base = base_of(top);
  part = part == 0.0f ? 0.0f : part * expf(base_of(peak) - base);
  const float sum = block_sum<kThreads>(part, sum_scratch);
  if (threadIdx.x == 0) report(c, i, sum, top, target_logit, beaten);
  if (!c.scale) return;

  // Chunk k > 0 is written over chunks before it, all of which are read when its barrier is passed; chunk 0 over itself.
  const float scale = c.scale[i], factor = __fdiv_rn(scale, sum);
  bf16* out = reinterpret_cast<bf16*>(row);
  for (int chunk = 0; chunk < c.vocab; chunk += kChunk) {
    float4 v[kChunkVectors];
#pragma unroll
    for (int k = 0; k < kChunkVectors; ++k) v[k] = load_logits(row, chunk + own + k * kThreads * 4, c.vocab);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kChunkVectors; ++k) {
      const int column = chunk + own + k * kThreads * 4;
      if (column >= c.vocab) continue;
      const float4 e = make_float4(expf(v[k].x - base), expf(v[k].y - base), expf(v[k].z - base), expf(v[k].w - base));
      store_gradients(out, column, c.vocab, target, e, factor, scale);
    }
  }
}

template <int Vectors>
void launch_cluster(cudaStream_t stream, const CrossEntropy& c, int64_t n) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = kClusterBlocks;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(n * kClusterBlocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, cluster_kernel<Vectors>, c), "cross_entropy");
}

// Asks for what the kernel that would run was compiled for: on a new device that may be less than the device has.
bool has_clusters() {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, cluster_kernel<1>), "cudaFuncGetAttributes");
  return attributes.ptxVersion >= 90;
}

}  // namespace

void cross_entropy(cudaStream_t stream, float* logits, int64_t ld, int64_t n, int64_t vocab, const int32_t* targets,
                   const float* scale, double* loss, uint8_t* correct) {
  if (n <= 0) return;
  const CrossEntropy c{logits, ld, static_cast<int>(vocab), targets, scale, loss, correct};
  constexpr int64_t kPerVector = int64_t{kClusterBlocks} * kThreads * 4;
  if (!has_clusters() || vocab > 16 * kPerVector) {
    streaming_kernel<<<static_cast<unsigned>(n), kThreads, 0, stream>>>(c);
    check_launch("cross_entropy");
  } else if (vocab <= kPerVector) {
    launch_cluster<1>(stream, c, n);
  } else if (vocab <= 2 * kPerVector) {
    launch_cluster<2>(stream, c, n);
  } else if (vocab <= 4 * kPerVector) {
    launch_cluster<4>(stream, c, n);
  } else if (vocab <= 8 * kPerVector) {
    launch_cluster<8>(stream, c, n);
  } else if (vocab <= 12 * kPerVector) {
    launch_cluster<12>(stream, c, n);
  } else {
    launch_cluster<16>(stream, c, n);
  }
}

}  // namespace tlora::cuda
