// AdamW of many adapters with different ranks, steps and hyperparameters, in four launches per 128 slots.
//
// 1. survey    per block of 4,096 elements of the flat state: the gradient's sum of squares (fp64) and the largest
//              magnitudes of weight, moments and gradient (as integers, so that NaN is larger than everything).
// 2. judge     one block per slot: the norm, the scalars of its update, and whether the magnitudes prove that all new values
//              stay finite, as they do for any sane slot. Then nothing else looks at the elements before the update.
// 3. try       slots without that proof: computes the update of every element and writes only the verdict.
// 4. update    in pieces of one matrix (flat_state.h), writes weight, moments and working copies of the slots that may, and
//              clears all gradients.
// 16 + 16 bytes read, 16 + 2 written per element; the update walks backwards, so that what the survey read last is still in
// L2.
// Order of the norm: a thread adds four elements of every 1,024 of its block ascending, a butterfly over the warp, warps
// ascending; the slot's blocks j, j + 1,024, … to thread j ascending, then likewise. The slot's size decides alone.
// 256 threads of 4 elements (1,024 threads for judge); shared memory only for the warps' partial sums.
#include <algorithm>
#include <cmath>

#include "cuda/check.h"
#include "cuda/flat_state.h"
#include "cuda/kernels.h"
#include "cuda/row.h"

namespace tlora::cuda {
namespace {

constexpr int kBlock = 4096;  // elements of a norm block: the contract's
constexpr int kThreads = 256;
constexpr int kRounds = kBlock / (kThreads * 4);
constexpr int kJudgeThreads = 1024;
constexpr int kTryBlocks = 528;
constexpr int kMaxSlots = 128;  // of a launch: its block table is a kernel parameter
constexpr int64_t kAlign = 256;

// Largest magnitudes as bits.
struct Peaks {
  uint32_t weight, moment1, moment2, gradient;
};

enum Verdict : int32_t { kRejected, kUnproven, kAccepted };

struct SlotState {
  float clip, decay, one_minus_beta1, beta2, one_minus_beta2, step_size, inverse_root_correction2, epsilon;
  int32_t verdict;
  int32_t reserved[7];
};
static_assert(sizeof(SlotState) == 64, "the scratch is laid out in 64-byte records");

// Blocks first[s] … first[s + 1] of a launch are slot s's.
struct BlockTable {
  int32_t count;
  int32_t first[kMaxSlots + 1];
};

__device__ __forceinline__ int slot_of(const BlockTable& table, int block) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.first[middle] <= block) low = middle;
    else high = middle;
  }
  return low;
}

__device__ __forceinline__ uint32_t magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

__device__ __forceinline__ Peaks join(const Peaks& a, const Peaks& b) {
  return {max(a.weight, b.weight), max(a.moment1, b.moment1), max(a.moment2, b.moment2), max(a.gradient, b.gradient)};
}

// The largest of the block, in thread 0.
template <int Threads>
__device__ __forceinline__ Peaks block_peaks(Peaks p, Peaks* scratch) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2)
    p = join(p, {__shfl_xor_sync(0xffffffffu, p.weight, step), __shfl_xor_sync(0xffffffffu, p.moment1, step),
                 __shfl_xor_sync(0xffffffffu, p.moment2, step), __shfl_xor_sync(0xffffffffu, p.gradient, step)});
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = p;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < Threads / 32; ++warp) p = join(p, scratch[warp]);
  return p;
}

__device__ __forceinline__ float4 load4(const float* p) {
  const uint4 v = load_once(p);
  return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}
// Elements e … e + 3 of an array of n; zeros behind its end.
__device__ __forceinline__ float4 load4(const float* p, int64_t e, int64_t n) {
  return make_float4(e < n ? p[e] : 0.0f, e + 1 < n ? p[e + 1] : 0.0f, e + 2 < n ? p[e + 2] : 0.0f,
                     e + 3 < n ? p[e + 3] : 0.0f);
}

__global__ __launch_bounds__(kThreads) void survey_kernel(const AdamwSlot* slots, const __grid_constant__ BlockTable table,
                                                          double* squares, Peaks* peaks) {
  __shared__ double sum_scratch[kThreads / 32];
  __shared__ Peaks peak_scratch[kThreads / 32];
  const int s = slot_of(table, static_cast<int>(blockIdx.x));
  const AdamwSlot& slot = slots[s];
  const float *weight = slot.weight, *moment1 = slot.moment1, *moment2 = slot.moment2, *gradient = slot.gradient;
  const int64_t n = slot.elements;
  const int64_t start = static_cast<int64_t>(static_cast<int>(blockIdx.x) - table.first[s]) * kBlock + threadIdx.x * 4;
  float4 all_g[kRounds], all_w[kRounds], all_m1[kRounds], all_m2[kRounds];
  if (start - threadIdx.x * 4 + kBlock <= n) {
#pragma unroll
    for (int k = 0; k < kRounds; ++k) {
      const int64_t e = start + k * kThreads * 4;
      all_g[k] = load4(gradient + e);
      all_w[k] = load4(weight + e);
      all_m1[k] = load4(moment1 + e);
      all_m2[k] = load4(moment2 + e);
    }
  } else {
#pragma unroll
    for (int k = 0; k < kRounds; ++k) {
      const int64_t e = start + k * kThreads * 4;
      all_g[k] = load4(gradient, e, n);
      all_w[k] = load4(weight, e, n);
      all_m1[k] = load4(moment1, e, n);
      all_m2[k] = load4(moment2, e, n);
    }
  }
  double sum = 0.0;
  Peaks peak{};
#pragma unroll
  for (int k = 0; k < kRounds; ++k) {
    const float4 g = all_g[k], w = all_w[k], m1 = all_m1[k], m2 = all_m2[k];
    sum = fma(static_cast<double>(g.x), static_cast<double>(g.x), sum);
    sum = fma(static_cast<double>(g.y), static_cast<double>(g.y), sum);
    sum = fma(static_cast<double>(g.z), static_cast<double>(g.z), sum);
    sum = fma(static_cast<double>(g.w), static_cast<double>(g.w), sum);
    // A negative second moment is out of bounds too: its sign bit stays.
    const auto bits = [](float x) { return __float_as_uint(x); };
    peak = join(peak, {magnitude(w.x), magnitude(m1.x), bits(m2.x), magnitude(g.x)});
    peak = join(peak, {magnitude(w.y), magnitude(m1.y), bits(m2.y), magnitude(g.y)});
    peak = join(peak, {magnitude(w.z), magnitude(m1.z), bits(m2.z), magnitude(g.z)});
    peak = join(peak, {magnitude(w.w), magnitude(m1.w), bits(m2.w), magnitude(g.w)});
  }
  sum = block_sum<kThreads>(sum, sum_scratch);
  peak = block_peaks<kThreads>(peak, peak_scratch);
  if (threadIdx.x == 0) {
    squares[blockIdx.x] = sum;
    peaks[blockIdx.x] = peak;
  }
}

// The scalars of one update, as torch.optim.AdamW forms them (in double, then used in fp32).
__device__ SlotState update_scalars(const AdamwSlot& slot, double norm) {
  const double beta1 = slot.beta1, beta2 = slot.beta2, step = static_cast<double>(slot.step);
  const double correction1 = 1.0 - pow(beta1, step), correction2 = 1.0 - pow(beta2, step);
  SlotState u{};
  u.clip = slot.max_grad_norm > 0 ? static_cast<float>(fmin(1.0, slot.max_grad_norm / (norm + 1e-6))) : 1.0f;
  u.decay = static_cast<float>(1.0 - static_cast<double>(slot.learning_rate) * slot.weight_decay);
  u.one_minus_beta1 = static_cast<float>(1.0 - beta1);
  u.beta2 = slot.beta2;
  u.one_minus_beta2 = static_cast<float>(1.0 - beta2);
  u.step_size = static_cast<float>(slot.learning_rate / correction1);
  u.inverse_root_correction2 = static_cast<float>(1.0 / sqrt(correction2));
  u.epsilon = slot.epsilon;
  return u;
}

// Whether no element can leave the finite numbers: a NaN among the peaks makes every comparison false.
__device__ bool proves_finite(const SlotState& u, const Peaks& peak) {
  const double huge = 3.4028234663852886e38 / 4;
  const double w = __uint_as_float(peak.weight), m1 = __uint_as_float(peak.moment1), m2 = __uint_as_float(peak.moment2);
  const double g = __uint_as_float(peak.gradient);
  if (!(w < huge && m1 < huge && m2 >= 0 && m2 < huge && g < huge && g * g < huge && u.epsilon > 0)) return false;
  if (!isfinite(u.inverse_root_correction2)) return false;
  return w * fabs(static_cast<double>(u.decay)) + fabs(static_cast<double>(u.step_size)) * (fmax(m1, g) / u.epsilon) < huge;
}

__global__ __launch_bounds__(kJudgeThreads) void judge_kernel(const AdamwSlot* slots, const __grid_constant__ BlockTable table,
                                                              const double* squares, const Peaks* peaks,
                                                              SlotState* states, AdamwResult* results) {
  __shared__ double sum_scratch[kJudgeThreads / 32];
  __shared__ Peaks peak_scratch[kJudgeThreads / 32];
  const int s = static_cast<int>(blockIdx.x);
  double sum = 0.0;
  Peaks peak{};
  for (int b = table.first[s] + static_cast<int>(threadIdx.x); b < table.first[s + 1]; b += kJudgeThreads) {
    sum += squares[b];
    peak = join(peak, peaks[b]);
  }
  sum = block_sum<kJudgeThreads>(sum, sum_scratch);
  peak = block_peaks<kJudgeThreads>(peak, peak_scratch);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum);
  const bool finite = isfinite(norm);
  SlotState u = update_scalars(slots[s], norm);
  u.verdict = !finite ? kRejected : proves_finite(u, peak) ? kAccepted : kUnproven;
  states[s] = u;
  results[s].grad_norm = norm;
  results[s].finite = finite;
  results[s].reserved = 0;
}

// Every operation is written out: `try` and `update` must not be contracted differently.
__device__ __forceinline__ void update(const SlotState& u, float& w, float& m1, float& m2, float g) {
  g = __fmul_rn(g, u.clip);
  m1 = __fmaf_rn(u.one_minus_beta1, __fsub_rn(g, m1), m1);
  m2 = __fmaf_rn(__fmul_rn(u.one_minus_beta2, g), g, __fmul_rn(m2, u.beta2));
  const float denominator = __fmaf_rn(__fsqrt_rn(m2), u.inverse_root_correction2, u.epsilon);
  w = __fmaf_rn(-u.step_size, __fdiv_rn(m1, denominator), __fmul_rn(w, u.decay));
}
__device__ __forceinline__ void update4(const SlotState& u, float4& w, float4& m1, float4& m2, const float4& g) {
  update(u, w.x, m1.x, m2.x, g.x);
  update(u, w.y, m1.y, m2.y, g.y);
  update(u, w.z, m1.z, m2.z, g.z);
  update(u, w.w, m1.w, m2.w, g.w);
}

__global__ __launch_bounds__(kThreads) void try_kernel(const AdamwSlot* slots, int count, const SlotState* states,
                                                       AdamwResult* results) {
  static_assert(kMaxSlots <= kThreads, "one thread per slot looks for work");
  const bool unproven = static_cast<int>(threadIdx.x) < count && states[threadIdx.x].verdict == kUnproven;
  if (!__syncthreads_or(unproven)) return;
  for (int s = 0; s < count; ++s) {
    if (states[s].verdict != kUnproven) continue;
    const SlotState u = states[s];
    const AdamwSlot slot = slots[s];
    bool finite = true;
    for (int64_t e = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; e < slot.elements;
         e += static_cast<int64_t>(gridDim.x) * kThreads) {
      float w = slot.weight[e], m1 = slot.moment1[e], m2 = slot.moment2[e];
      update(u, w, m1, m2, slot.gradient[e]);
      finite = finite && isfinite(w) && isfinite(m1) && isfinite(m2);
    }
    if (!finite) results[s].finite = 0;  // all writers write the same
  }
}

__device__ __forceinline__ uint32_t working_pair(float low, float high) {
  return static_cast<uint32_t>(__bfloat16_as_ushort(working_copy(low))) |
         static_cast<uint32_t>(__bfloat16_as_ushort(working_copy(high))) << 16;
}

__global__ __launch_bounds__(kThreads, 4) void update_kernel(const AdamwSlot* slots, const __grid_constant__ BlockTable table,
                                                             const __grid_constant__ ModuleSizes sizes, const Home* homes,
                                                             const SlotState* states, const AdamwResult* results) {
  const int block = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const int s = slot_of(table, block);
  const AdamwSlot slot = slots[s];
  const Piece p = piece_at(sizes, slot.targets, slot.rank, block - table.first[s]);
  const int64_t offset = slot.rank * p.before;
  float *weight = slot.weight + offset, *moment1 = slot.moment1 + offset, *moment2 = slot.moment2 + offset;
  float* gradient = slot.gradient + offset;
  const int end = min(p.first + kPiece, p.elements);
  const int width = p.is_b ? slot.rank : static_cast<int>(sizes.in[p.module]);  // of a row of the matrix
  const bool vectors = offset % 4 == 0 && width % 4 == 0;

  if (!results[s].finite) {
    for (int e = p.first + static_cast<int>(threadIdx.x); e < end; e += kThreads) gradient[e] = 0.0f;
    return;
  }
  const SlotState u = states[s];
  const Home home = homes[p.layer * kModuleCount + p.module];
  // Element (row, column) of the matrix at copy[row * ld + column].
  bf16* copy = p.is_b ? home.b + slot.home_column : home.a + slot.home_column * home.lda;
  const int64_t ld = p.is_b ? home.ldb : home.lda;

  if (!vectors) {
    for (int e = p.first + static_cast<int>(threadIdx.x); e < end; e += kThreads) {
      float w = weight[e], m1 = moment1[e], m2 = moment2[e];
      update(u, w, m1, m2, gradient[e]);
      weight[e] = w;
      moment1[e] = m1;
      moment2[e] = m2;
      gradient[e] = 0.0f;
      copy[e / width * ld + e % width] = working_copy(w);
    }
    return;
  }
  constexpr int kPairs = 2;
#pragma unroll 1
  for (int base = p.first + static_cast<int>(threadIdx.x) * 4; base < end; base += kPairs * kThreads * 4) {
    float4 w[kPairs], m1[kPairs], m2[kPairs], g[kPairs];
#pragma unroll
    for (int k = 0; k < kPairs; ++k)
      if (const int e = base + k * kThreads * 4; e < end) {
        w[k] = load4(weight + e);
        m1[k] = load4(moment1 + e);
        m2[k] = load4(moment2 + e);
        g[k] = load4(gradient + e);
      }
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      const int e = base + k * kThreads * 4;
      if (e >= end) continue;
      update4(u, w[k], m1[k], m2[k], g[k]);
      *reinterpret_cast<float4*>(weight + e) = w[k];
      *reinterpret_cast<float4*>(moment1 + e) = m1[k];
      *reinterpret_cast<float4*>(moment2 + e) = m2[k];
      *reinterpret_cast<float4*>(gradient + e) = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      const unsigned row = static_cast<unsigned>(e) / static_cast<unsigned>(width);
      const unsigned column = static_cast<unsigned>(e) - row * static_cast<unsigned>(width);
      *reinterpret_cast<uint2*>(copy + row * ld + column) =
          make_uint2(working_pair(w[k].x, w[k].y), working_pair(w[k].z, w[k].w));
    }
  }
}

int64_t aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

int64_t norm_blocks(int64_t elements) { return (elements + kBlock - 1) / kBlock; }

}  // namespace

int64_t adamw_scratch_bytes(int64_t total_elements, int32_t slots) {
  const int64_t blocks = total_elements / kBlock + slots;
  return aligned(blocks * static_cast<int64_t>(sizeof(Peaks))) + aligned(blocks * static_cast<int64_t>(sizeof(double))) +
         aligned(slots * static_cast<int64_t>(sizeof(SlotState)));
}

void adamw(cudaStream_t stream, const AdamwSlot* slots, const AdamwSlot* host_slots, int32_t count, const ModuleSizes& sizes,
           int32_t layers, const Home* homes, void* scratch, AdamwResult* results) {
  int64_t total_elements = 0;
  for (int i = 0; i < count; ++i) total_elements += host_slots[i].elements;
  const int64_t capacity = total_elements / kBlock + count;
  char* memory = static_cast<char*>(scratch);
  Peaks* peaks = reinterpret_cast<Peaks*>(memory);
  memory += aligned(capacity * static_cast<int64_t>(sizeof(Peaks)));
  double* squares = reinterpret_cast<double*>(memory);
  memory += aligned(capacity * static_cast<int64_t>(sizeof(double)));
  SlotState* states = reinterpret_cast<SlotState*>(memory);

  // Groups run one after the other on the stream and share the scratch of the norms.
  for (int first = 0; first < count; first += kMaxSlots) {
    BlockTable norms{}, pieces{};
    norms.count = pieces.count = std::min(kMaxSlots, count - first);
    for (int s = 0; s < norms.count; ++s) {
      const AdamwSlot& slot = host_slots[first + s];
      norms.first[s + 1] = norms.first[s] + static_cast<int32_t>(norm_blocks(slot.elements));
      pieces.first[s + 1] = pieces.first[s] + layers * layer_pieces(sizes, slot.targets, slot.rank);
    }
    const unsigned norm_count = static_cast<unsigned>(norms.first[norms.count]);
    const unsigned piece_count = static_cast<unsigned>(pieces.first[pieces.count]);
    const AdamwSlot* group = slots + first;
    if (norm_count > 0) {
      survey_kernel<<<norm_count, kThreads, 0, stream>>>(group, norms, squares, peaks);
      check_launch("adamw survey");
    }
    judge_kernel<<<static_cast<unsigned>(norms.count), kJudgeThreads, 0, stream>>>(group, norms, squares, peaks,
                                                                                   states + first, results + first);
    check_launch("adamw judge");
    try_kernel<<<kTryBlocks, kThreads, 0, stream>>>(group, norms.count, states + first, results + first);
    check_launch("adamw try");
    if (piece_count > 0) {
      update_kernel<<<piece_count, kThreads, 0, stream>>>(group, pieces, sizes, homes, states + first, results + first);
      check_launch("adamw update");
    }
  }
}

}  // namespace tlora::cuda
