// Cross entropy of large vocabularies on Hopper: a logit is read from memory once, and reads go on during the arithmetic.
//
// A cluster of 8 blocks owns a row at a time, block b the columns from b · share on (share: the vocabulary's eighth, rounded
// up to 64). The copy engine streams a block's share of its rows, pieces of 4,096 logits, through a ring in shared memory
// that holds one share and more: the next rows arrive while this one is worked on. Per block: one producer warp, 8 warps of
// statistics, and 8 warps of gradients, which follow and hand the pieces back.
//
// Statistics: a thread has the four columns from t · 4 of every 1,024, a running maximum and a sum relative to it, rescaled
// once for a piece; pairs of a four first, then fours by ascending column; a butterfly over the warp, warps ascending, blocks
// ascending, each relative to the largest logit of what is joined. So the order follows from the vocabulary alone.
//
// Each block stores its share's statistics to all 8 (store_async), and no gradient of a row is written before all have come.
// They are sent when the share has been read to its end, so that is also the order that dlogits need, which lie at the start of
// the row's own memory, on logits of other blocks. The copy engine reads through another proxy than the one that writes, but
// never what a launch has written: rows are not read again, and the row's reads have completed on barriers before.
//
// The statistics of a row lie in one of kTold slots, which nobody hands back. A block's statistics of row k need its ring
// to have let go of a piece of row k - kLead or later, so its gradients have had that row's statistics from every block; and
// that block's gradients in turn are past those of row k - 2 · kLead. What is overwritten, row k - kTold, is older.
#include "cuda/cross_entropy.h"

#include <algorithm>
#include <atomic>

#include "cuda/check.h"
#include "cuda/hopper.h"
#include "cuda/kernels.h"

namespace tlora::cuda {
namespace {

constexpr int kBlocks = 8;                   // of a cluster: the most that every device forms
constexpr int kRole = 256, kRoleWarps = kRole / 32;
constexpr int kThreads = 2 * kRole + 32;
constexpr int kVectors = 4;                  // fours of a thread in a piece
constexpr int kPiece = kRole * 4 * kVectors;
constexpr int kSlots = 14;                   // 224 KiB of the 227 that a block can have
constexpr int kTold = 16;
constexpr int64_t kShareUnit = 64;           // no two blocks write the same 128 bytes

// Below, cross_entropy.cu needs few registers for a row and has three blocks or more on an SM. From here on every share has two
// pieces or more.
constexpr int64_t kLeastVocab = 65536;
constexpr int64_t kMostVocab = int64_t{kBlocks} * kSlots * kPiece;
constexpr int kLeastPieces = 2;
static_assert(kLeastVocab - (kBlocks - 1) * (kLeastVocab / kBlocks + kShareUnit) > (kLeastPieces - 1) * kPiece,
              "the last share, the smallest, has fewer pieces");
constexpr int kLead = (kSlots + kLeastPieces) / kLeastPieces - 1;
static_assert(kTold >= 2 * kLead, "statistics would be overwritten unread");

struct Memory {
  float piece[kSlots][kPiece];
  float4 told[kTold][kBlocks];    // of each block: largest logit, sum relative to it, largest before the target, the target's
  float4 of_warp[2][kRoleWarps];  // rows take turns
  uint64_t full[kSlots], empty[kSlots];
  uint64_t told_all[kTold];
};
static_assert(sizeof(Memory) <= 232448, "what a block can have");

int64_t share_of(int64_t vocab) { return ((vocab + kBlocks - 1) / kBlocks + kShareUnit - 1) / kShareUnit * kShareUnit; }

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

extern __shared__ __align__(128) char cross_entropy_memory[];

// A place in a ring of N, and the parity of the passes over it.
template <int N>
struct Place {
  int index = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void next() {
    if (++index == N) index = 0, phase ^= 1;
  }
};

// This block's columns, and the rows of its cluster.
struct Work {
  int begin, columns, share;
  int64_t first, step, end;
  uint32_t block;
};

// 2^x in one instruction, 2^-22 relative; results below the least normal number are 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A sum relative to `from` as one relative to `to`. A sum of -inf only is 0, which no scaling may touch.
__device__ __forceinline__ float rescale(float sum, float from, float to) {
  const float factor = expf(base_of(from) - base_of(to));
  return sum == 0.0f ? 0.0f : sum * factor;
}

__device__ __forceinline__ float4 load_four(const float* piece, int column) {
  return *reinterpret_cast<const float4*>(piece + column);
}
// -inf from `count` on: what lies there is of an earlier row, or of nobody.
__device__ __forceinline__ float4 masked(const float4& v, int column, int count) {
  return make_float4(column < count ? v.x : lowest(), column + 1 < count ? v.y : lowest(),
                     column + 2 < count ? v.z : lowest(), column + 3 < count ? v.w : lowest());
}

// ---- producer: one thread --------------------------------------------------------------------------------------------------

__device__ __forceinline__ void load_rows(const CrossEntropy& c, const Work& w, Memory& m) {
  Place<kSlots> slot;
  for (int64_t i = w.first; i < w.end; i += w.step) {
    const float* share = c.logits + i * c.ld + w.begin;
    for (int at = 0; at < w.columns; at += kPiece) {
      const int count = min(kPiece, w.columns - at);
      const uint32_t bytes = static_cast<uint32_t>(count + 3) / 4 * 16;  // ld is a multiple of 4
      mbarrier_wait(&m.empty[slot.index], slot.phase ^ 1);
      mbarrier_arrive_expect(&m.full[slot.index], bytes);
      bulk_load(m.piece[slot.index], share + at, bytes, &m.full[slot.index]);
      slot.next();
    }
  }
}

// ---- statistics ------------------------------------------------------------------------------------------------------------

struct Running {
  float peak = lowest();    // largest logit
  float sum = 0.0f;         // relative to it
  float before = lowest();  // largest logit before the target
};

// Takes in a piece of `count` columns, whose column `target` is the target; it may lie outside.
template <bool Whole>
__device__ __forceinline__ void take(Running& r, const float* piece, int own, int count, int target) {
  float4 v[kVectors];
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    v[j] = load_four(piece, own + j * kRole * 4);
    if (!Whole) v[j] = masked(v[j], own + j * kRole * 4, count);
  }
  float peak = r.peak;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) peak = fmaxf(peak, largest(v[j]));
  if (target >= count) {
    r.before = peak;  // all of the thread's columns so far are
  } else if (target >= 0) {
#pragma unroll
    for (int j = 0; j < kVectors; ++j) r.before = fmaxf(r.before, largest(masked(v[j], own + j * kRole * 4, target)));
  }
  const float base = base_of(peak);
  r.sum = rescale(r.sum, r.peak, peak);
  r.peak = peak;
#pragma unroll
  for (int j = 0; j < kVectors; ++j)
    r.sum += (expf(v[j].x - base) + expf(v[j].y - base)) + (expf(v[j].z - base) + expf(v[j].w - base));
}

__device__ __forceinline__ void statistics(const CrossEntropy& c, const Work& w, Memory& m, int thread) {
  const int warp = thread / 32, lane = thread % 32;
  Place<kSlots> slot;
  Place<kTold> told;
  int turn = 0, next_target = c.targets[w.first];
  for (int64_t i = w.first; i < w.end; i += w.step, turn ^= 1) {
    const int target = next_target - w.begin;
    if (i + w.step < w.end) next_target = c.targets[i + w.step];

    Running r;
    float target_logit = 0.0f;  // of the share that has the target
    for (int at = 0; at < w.columns; at += kPiece) {
      const float* piece = m.piece[slot.index];
      const int count = min(kPiece, w.columns - at);
      mbarrier_wait(&m.full[slot.index], slot.phase);
      if (target >= at && target < at + count) target_logit = piece[target - at];
      if (count == kPiece) take<true>(r, piece, thread * 4, count, target - at);
      else take<false>(r, piece, thread * 4, count, target - at);
      slot.next();
    }

    const float warp_top = warp_max(r.peak);
    const float warp_part = warp_sum(rescale(r.sum, r.peak, warp_top));
    const float warp_before = warp_max(r.before);
    if (lane == 0) m.of_warp[turn][warp] = make_float4(warp_top, warp_part, warp_before, 0.0f);
    // Behind it the share has been read to its end. Who writes of_warp[turn] again has passed the next row's, where warp 0
    // arrives after its reads of this one's.
    named_barrier(1, kRole);
    if (warp == 0) {
      const float4 other = m.of_warp[turn][lane % kRoleWarps];
      const float top = warp_max(other.x), before = warp_max(other.z), part = rescale(other.y, other.x, top);
      float sum = 0.0f;
#pragma unroll
      for (int i_warp = 0; i_warp < kRoleWarps; ++i_warp) sum += __shfl_sync(0xffffffffu, part, i_warp);
      // The others' statistics may come before the barrier expects them: it waits for this arrival in any case.
      if (lane == 0) mbarrier_arrive_expect(&m.told_all[told.index], kBlocks * sizeof(float4));
      if (lane < kBlocks)
        store_async(&m.told[told.index][w.block], make_float4(top, sum, before, target_logit), &m.told_all[told.index],
                    static_cast<uint32_t>(lane));
    }
    told.next();
  }
}

// ---- gradients -------------------------------------------------------------------------------------------------------------

// Of a row: base: subtracted from logits; factor of their exponentials; scale: subtracted at the target.
struct Gradient {
  float base, factor, scale;
  __device__ __forceinline__ float operator()(float logit) const {
    return exp2_fast((logit - base) * 1.4426950408889634f) * factor;
  }
};

// dlogits of a piece of `count` columns, whose column `target` is the target. Plain: all of it, without the target.
template <bool Plain>
__device__ __forceinline__ void write(const Gradient& gradient, const float* piece, bf16* out, int own, int count, int target) {
  float4 v[kVectors];
#pragma unroll
  for (int j = 0; j < kVectors; ++j) v[j] = load_four(piece, own + j * kRole * 4);
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int column = own + j * kRole * 4;
    float d[4] = {gradient(v[j].x), gradient(v[j].y), gradient(v[j].z), gradient(v[j].w)};
    if (!Plain) {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (column + e == target) d[e] -= gradient.scale;
    }
    if (Plain || column + 4 <= count) {
      *reinterpret_cast<uint2*>(out + column) = make_uint2(pack2(d[0], d[1]), pack2(d[2], d[3]));
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (column + e < count) out[column + e] = __float2bfloat16_rn(d[e]);
    }
  }
}

__device__ __forceinline__ void gradients(const CrossEntropy& c, const Work& w, Memory& m, int thread) {
  const int lane = thread % 32;
  Place<kSlots> slot;
  Place<kTold> told;
  uint32_t turn = 0;
  int next_target = c.targets[w.first];
  float next_scale = c.scale ? c.scale[w.first] : 0.0f;
  for (int64_t i = w.first; i < w.end; i += w.step, ++turn) {
    const int target = next_target;
    const float scale = next_scale;
    if (i + w.step < w.end) {
      next_target = c.targets[i + w.step];
      if (c.scale) next_scale = c.scale[i + w.step];
    }

    mbarrier_wait_cluster(&m.told_all[told.index], told.phase);
    const float4 other = m.told[told.index][lane % kBlocks];
    told.next();
    const float top = warp_max(other.x), before = warp_max(other.z), part = rescale(other.y, other.x, top);
    const float target_logit = __shfl_sync(0xffffffffu, other.w, target / w.share);
    float sum = 0.0f;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) sum += __shfl_sync(0xffffffffu, part, b);

    const Gradient gradient{base_of(top), top == lowest() ? 0.0f : __fdiv_rn(scale, sum), scale};
    bf16* const out = reinterpret_cast<bf16*>(c.logits + i * c.ld) + w.begin;
    for (int at = 0; at < w.columns; at += kPiece) {
      if (c.scale) {
        const int count = min(kPiece, w.columns - at), own_target = target - w.begin - at;
        mbarrier_wait(&m.full[slot.index], slot.phase);  // long complete: for what the copy engine wrote to be seen here
        if (count == kPiece && (own_target < 0 || own_target >= kPiece))
          write<true>(gradient, m.piece[slot.index], out + at, thread * 4, count, own_target);
        else
          write<false>(gradient, m.piece[slot.index], out + at, thread * 4, count, own_target);
      }
      mbarrier_arrive(&m.empty[slot.index]);
      slot.next();
    }
    // In turns, and after the last piece is handed back: the logarithm takes a while. An id 0 has none before it.
    if (thread == 0 && turn % kBlocks == w.block) report(c, i, sum, top, target_logit, target > 0 && before >= target_logit);
  }
}

#endif

__global__ void __launch_bounds__(kThreads, 1) ring_kernel(CrossEntropy c, int64_t n, int share) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  Memory& m = *reinterpret_cast<Memory*>(cross_entropy_memory);
  const int thread = static_cast<int>(threadIdx.x);
  Work w;
  w.block = cluster_rank();
  w.share = share;
  w.begin = static_cast<int>(w.block) * share;
  w.columns = min(share, c.vocab - w.begin);
  w.first = blockIdx.x / kBlocks;
  w.step = gridDim.x / kBlocks;
  w.end = n;
  if (thread == 0) {
    for (int slot = 0; slot < kSlots; ++slot) {
      mbarrier_init(&m.full[slot], 1);
      mbarrier_init(&m.empty[slot], kRole);
    }
    for (int slot = 0; slot < kTold; ++slot) mbarrier_init(&m.told_all[slot], 1);
    mbarrier_init_fence();
  }
  cluster_sync();  // the others store here from now on

  if (thread < kRole) statistics(c, w, m, thread);
  else if (thread < 2 * kRole) gradients(c, w, m, thread - kRole);
  else if (thread == 2 * kRole) load_rows(c, w, m);
  // A block's own gradients have had every store to it; that it also outlives its stores to others is for the tools.
  __syncwarp();
  cluster_sync();
#endif
}

struct Launch {
  cudaLaunchAttribute attribute{};
  cudaLaunchConfig_t config{};
  Launch(int64_t clusters, cudaStream_t stream) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = kBlocks;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.gridDim = dim3(static_cast<unsigned>(clusters * kBlocks));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = sizeof(Memory);
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
  }
  Launch(const Launch&) = delete;  // config points to attribute
};

// How many clusters the current device runs at once, asked once for each device; 0 without compute capability 9.0.
int resident_clusters() {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];  // + 1; 0: not asked yet
  int device = 0, major = 0, minor = 0, count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  if (device < kDevices)
    if (const int value = known[device].load(std::memory_order_acquire)) return value - 1;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
  if (major == 9 && minor == 0) {
    check(cudaFuncSetAttribute(ring_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Memory)),
          "cross_entropy_sm90: shared memory");
    const Launch launch(1, nullptr);
    check(cudaOccupancyMaxActiveClusters(&count, ring_kernel, &launch.config), "cross_entropy_sm90: clusters");
  }
  if (device < kDevices) known[device].store(count + 1, std::memory_order_release);
  return count;
}

}  // namespace

bool cross_entropy_sm90_supports(int64_t vocab) {
  return vocab >= kLeastVocab && vocab <= kMostVocab && resident_clusters() > 0;
}

void cross_entropy_sm90(cudaStream_t stream, float* logits, int64_t ld, int64_t n, int64_t vocab, const int32_t* targets,
                        const float* scale, double* loss, uint8_t* correct) {
  if (n <= 0) return;
  const CrossEntropy c{logits, ld, static_cast<int>(vocab), targets, scale, loss, correct};
  const Launch launch(std::min<int64_t>(resident_clusters(), n), stream);
  check(cudaLaunchKernelEx(&launch.config, ring_kernel, c, n, static_cast<int>(share_of(vocab))), "cross_entropy_sm90");
}

}  // namespace tlora::cuda
