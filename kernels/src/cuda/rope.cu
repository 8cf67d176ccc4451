// Optional per-head RMSNorm (Qwen3) and rotary positions on q and k, forward and backward, in one pass.
//
// Vector path, head_dim a multiple of 16: G lanes share a head (G = head_dim / 16 rounded up to a power of two), lane l has
// columns 8l … 8l + 7 and their partners half a head on. One block owns a token; a thread keeps its cosines and sines in
// registers and walks the heads, kHeads of them (2 x 16 bytes each) in flight. Other head sizes: one warp per token and
// head, lane l has the pairs l and l + 32.
// Sums over a head (norm only): a lane's own products by ascending column, lower half first, then a butterfly over the lanes
// of the head: the head size decides alone. fp32 throughout; q and k round once. No shared memory.
// Forward may write q and k over the raw ones: a lane has read all that it writes, and no other lane reads it.
#include <algorithm>
#include <string>
#include <type_traits>

#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/rotary.h"
#include "cuda/row.h"

namespace tlora::cuda {
namespace {

constexpr int kMaxThreads = 512;
constexpr int kScalarWarps = 4;

struct Heads {
  const int32_t* position;
  int32_t q, k, dim;  // numbers of heads, head_dim
  const float* q_norm;
  const float* k_norm;
  float eps;
  const float* cosine;
  const float* sine;
};

__device__ __forceinline__ float inverse_rms(float squares, const Heads& s) {
  return __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(squares, static_cast<float>(s.dim)) + s.eps));
}

// Both halves of a head in one lane.
struct Pair8 {
  float lo[8], hi[8];
};

__device__ __forceinline__ Pair8 unpack(const uint4& lo, const uint4& hi) {
  Pair8 p;
  unpack8(lo, p.lo);
  unpack8(hi, p.hi);
  return p;
}

template <int G>
__device__ __forceinline__ float head_dot(const Pair8& a, const Pair8& b) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(a.lo[i], b.lo[i], sum);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(a.hi[i], b.hi[i], sum);
  return warp_sum<G>(sum);
}

template <int G, bool Norm, int kHeads>
__global__ __launch_bounds__(kMaxThreads) void forward_vector(Heads s, const bf16* qkv, int64_t ld_qkv, bf16* q, int64_t ld_q,
                                                              bf16* k, int64_t ld_k) {
  const int64_t t = blockIdx.x;
  const int column = static_cast<int>(threadIdx.x) % G * 8, group = static_cast<int>(threadIdx.x) / G;
  const int groups = static_cast<int>(blockDim.x) / G, total = s.q + s.k, half = s.dim / 2;
  const bool active = column < half;
  const bf16* in = qkv + t * ld_qkv;

  const int64_t at = static_cast<int64_t>(s.position[t]) * half + column;
  float cosine[8] = {}, sine[8] = {};
  // All lanes make every round: the sums are of whole warps.
  for (int first = 0; first < total; first += groups * kHeads) {
    uint4 raw_lo[kHeads], raw_hi[kHeads];
#pragma unroll
    for (int j = 0; j < kHeads; ++j) {
      const int h = first + j * groups + group;
      raw_lo[j] = raw_hi[j] = make_uint4(0, 0, 0, 0);
      if (active && h < total) {
        raw_lo[j] = load_once(in + h * s.dim + column);
        raw_hi[j] = load_once(in + h * s.dim + half + column);
      }
    }
    // Behind the heads' loads, which do not wait for the position.
    if (first == 0 && active) {
      load8(s.cosine + at, 0, 8, cosine);
      load8(s.sine + at, 0, 8, sine);
    }
#pragma unroll
    for (int j = 0; j < kHeads; ++j) {
      const int h = first + j * groups + group;
      Pair8 v = unpack(raw_lo[j], raw_hi[j]);
      float inverse = 0.0f;
      if constexpr (Norm) inverse = inverse_rms(head_dot<G>(v, v), s);
      if (!active || h >= total) continue;
      if constexpr (Norm) {
        const float* weight = h < s.q ? s.q_norm : s.k_norm;
        Pair8 w;
        load8(weight + column, 0, 8, w.lo);
        load8(weight + half + column, 0, 8, w.hi);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          v.lo[i] = w.lo[i] * (v.lo[i] * inverse);
          v.hi[i] = w.hi[i] * (v.hi[i] * inverse);
        }
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) rotate(v.lo[i], v.hi[i], cosine[i], sine[i]);
      bf16* out = h < s.q ? q + t * ld_q + h * s.dim : k + t * ld_k + (h - s.q) * s.dim;
      *reinterpret_cast<uint4*>(out + column) = pack8(v.lo);
      *reinterpret_cast<uint4*>(out + half + column) = pack8(v.hi);
    }
  }
}

template <int G, bool Norm, int kHeads>
__global__ __launch_bounds__(kMaxThreads) void backward_vector(Heads s, const bf16* qkv, int64_t ld_qkv, bf16* dqkv,
                                                               int64_t ld_dqkv) {
  const int64_t t = blockIdx.x;
  const int column = static_cast<int>(threadIdx.x) % G * 8, group = static_cast<int>(threadIdx.x) / G;
  const int groups = static_cast<int>(blockDim.x) / G, total = s.q + s.k, half = s.dim / 2;
  const bool active = column < half;
  const bf16* in = qkv + t * ld_qkv;
  bf16* grad = dqkv + t * ld_dqkv;

  const int64_t at = static_cast<int64_t>(s.position[t]) * half + column;
  float cosine[8] = {}, sine[8] = {};
  for (int first = 0; first < total; first += groups * kHeads) {
    uint4 raw_lo[kHeads], raw_hi[kHeads], x_lo[kHeads], x_hi[kHeads];
#pragma unroll
    for (int j = 0; j < kHeads; ++j) {
      const int h = first + j * groups + group;
      raw_lo[j] = raw_hi[j] = x_lo[j] = x_hi[j] = make_uint4(0, 0, 0, 0);
      if (active && h < total) {
        raw_lo[j] = load_once(grad + h * s.dim + column);
        raw_hi[j] = load_once(grad + h * s.dim + half + column);
        if constexpr (Norm) {
          x_lo[j] = load_once(in + h * s.dim + column);
          x_hi[j] = load_once(in + h * s.dim + half + column);
        }
      }
    }
    // Behind the heads' loads, which do not wait for the position.
    if (first == 0 && active) {
      load8(s.cosine + at, 0, 8, cosine);
      load8(s.sine + at, 0, 8, sine);
    }
#pragma unroll
    for (int j = 0; j < kHeads; ++j) {
      const int h = first + j * groups + group;
      Pair8 r = unpack(raw_lo[j], raw_hi[j]);
#pragma unroll
      for (int i = 0; i < 8; ++i) rotate(r.lo[i], r.hi[i], cosine[i], -sine[i]);
      if constexpr (Norm) {
        const Pair8 x = unpack(x_lo[j], x_hi[j]);
        const float inverse = inverse_rms(head_dot<G>(x, x), s);
        if (active && h < total) {
          const float* weight = h < s.q ? s.q_norm : s.k_norm;
          Pair8 w;
          load8(weight + column, 0, 8, w.lo);
          load8(weight + half + column, 0, 8, w.hi);
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            r.lo[i] *= w.lo[i];
            r.hi[i] *= w.hi[i];
          }
        }
        const float mean = __fdiv_rn(head_dot<G>(r, x), static_cast<float>(s.dim));
        const float slope = inverse * inverse * mean;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          r.lo[i] = inverse * (r.lo[i] - x.lo[i] * slope);
          r.hi[i] = inverse * (r.hi[i] - x.hi[i] * slope);
        }
      }
      if (!active || h >= total) continue;
      *reinterpret_cast<uint4*>(grad + h * s.dim + column) = pack8(r.lo);
      *reinterpret_cast<uint4*>(grad + h * s.dim + half + column) = pack8(r.hi);
    }
  }
}

// ---- any even head size: lane l of a warp has the pairs l and l + 32 of one head ------------------------------------------

struct Lane {
  int64_t t;
  int h;
  bool any;  // the warp has a head
};
__device__ __forceinline__ Lane lane_of(const Heads& s, int64_t tokens) {
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kScalarWarps + threadIdx.x / 32;
  const int total = s.q + s.k;
  return {warp / total, static_cast<int>(warp % total), warp < tokens * total};
}

__global__ __launch_bounds__(kScalarWarps * 32) void forward_scalar(Heads s, int64_t tokens, const bf16* qkv, int64_t ld_qkv,
                                                                    bf16* q, int64_t ld_q, bf16* k, int64_t ld_k) {
  const Lane my = lane_of(s, tokens);
  if (!my.any) return;
  const int half = s.dim / 2, lane = static_cast<int>(threadIdx.x) % 32;
  const bf16* in = qkv + my.t * ld_qkv + my.h * s.dim;
  bf16* out = my.h < s.q ? q + my.t * ld_q + my.h * s.dim : k + my.t * ld_k + (my.h - s.q) * s.dim;
  const float* weight = my.h < s.q ? s.q_norm : s.k_norm;
  const int64_t at = static_cast<int64_t>(s.position[my.t]) * half;
  float lo[2] = {}, hi[2] = {};
#pragma unroll
  for (int j = 0; j < 2; ++j)
    if (const int i = lane + 32 * j; i < half) {
      lo[j] = __bfloat162float(in[i]);
      hi[j] = __bfloat162float(in[i + half]);
    }
  if (weight) {
    const float squares = fmaf(lo[0], lo[0], hi[0] * hi[0]) + fmaf(lo[1], lo[1], hi[1] * hi[1]);
    const float inverse = inverse_rms(warp_sum(squares), s);
#pragma unroll
    for (int j = 0; j < 2; ++j)
      if (const int i = lane + 32 * j; i < half) {
        lo[j] = weight[i] * (lo[j] * inverse);
        hi[j] = weight[i + half] * (hi[j] * inverse);
      }
  }
#pragma unroll
  for (int j = 0; j < 2; ++j)
    if (const int i = lane + 32 * j; i < half) {
      rotate(lo[j], hi[j], s.cosine[at + i], s.sine[at + i]);
      out[i] = __float2bfloat16_rn(lo[j]);
      out[i + half] = __float2bfloat16_rn(hi[j]);
    }
}

__global__ __launch_bounds__(kScalarWarps * 32) void backward_scalar(Heads s, int64_t tokens, const bf16* qkv, int64_t ld_qkv,
                                                                     bf16* dqkv, int64_t ld_dqkv) {
  const Lane my = lane_of(s, tokens);
  if (!my.any) return;
  const int half = s.dim / 2, lane = static_cast<int>(threadIdx.x) % 32;
  const bf16* in = qkv + my.t * ld_qkv + my.h * s.dim;
  bf16* grad = dqkv + my.t * ld_dqkv + my.h * s.dim;
  const float* weight = my.h < s.q ? s.q_norm : s.k_norm;
  const int64_t at = static_cast<int64_t>(s.position[my.t]) * half;
  float lo[2] = {}, hi[2] = {}, x_lo[2] = {}, x_hi[2] = {};
#pragma unroll
  for (int j = 0; j < 2; ++j)
    if (const int i = lane + 32 * j; i < half) {
      lo[j] = __bfloat162float(grad[i]);
      hi[j] = __bfloat162float(grad[i + half]);
      rotate(lo[j], hi[j], s.cosine[at + i], -s.sine[at + i]);
      if (weight) {
        x_lo[j] = __bfloat162float(in[i]);
        x_hi[j] = __bfloat162float(in[i + half]);
        lo[j] *= weight[i];
        hi[j] *= weight[i + half];
      }
    }
  if (weight) {
    const float squares = fmaf(x_lo[0], x_lo[0], x_hi[0] * x_hi[0]) + fmaf(x_lo[1], x_lo[1], x_hi[1] * x_hi[1]);
    const float products = fmaf(lo[0], x_lo[0], hi[0] * x_hi[0]) + fmaf(lo[1], x_lo[1], hi[1] * x_hi[1]);
    const float inverse = inverse_rms(warp_sum(squares), s);
    const float slope = inverse * inverse * __fdiv_rn(warp_sum(products), static_cast<float>(s.dim));
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      lo[j] = inverse * (lo[j] - x_lo[j] * slope);
      hi[j] = inverse * (hi[j] - x_hi[j] * slope);
    }
  }
#pragma unroll
  for (int j = 0; j < 2; ++j)
    if (const int i = lane + 32 * j; i < half) {
      grad[i] = __float2bfloat16_rn(lo[j]);
      grad[i + half] = __float2bfloat16_rn(hi[j]);
    }
}

Heads heads_of(const Tables& tables, const RopeArguments& rope) {
  if (rope.head_dim <= 0 || rope.head_dim % 2 || rope.head_dim > 128)
    throw Error(TL_UNSUPPORTED, "rotary positions with heads of " + std::to_string(rope.head_dim));
  return {tables.position, rope.heads,  rope.kv_heads, rope.head_dim, rope.q_norm,
          rope.k_norm,     rope.eps,    rope.cosine,   rope.sine};
}

// Threads of a block of the vector path: enough that a thread has `per_thread` heads.
int vector_threads(const Heads& s, int g, int per_thread) {
  const int groups = (s.q + s.k + per_thread - 1) / per_thread;
  return std::min(kMaxThreads, (groups * g + 31) / 32 * 32);
}

unsigned scalar_blocks(const Heads& s, int64_t tokens) {
  return static_cast<unsigned>((tokens * (s.q + s.k) + kScalarWarps - 1) / kScalarWarps);
}

// Calls f with G.
template <class F>
void for_head_dim(int dim, const F& f) {
  if (dim <= 16) f(std::integral_constant<int, 1>());
  else if (dim <= 32) f(std::integral_constant<int, 2>());
  else if (dim <= 64) f(std::integral_constant<int, 4>());
  else f(std::integral_constant<int, 8>());
}

}  // namespace

void rope_forward(cudaStream_t stream, const Tables& tables, const RopeArguments& rope, const bf16* qkv, int64_t ld_qkv,
                  bf16* q, int64_t ld_q, bf16* k, int64_t ld_k) {
  const int64_t tokens = tables.tokens;
  if (tokens <= 0) return;
  const Heads s = heads_of(tables, rope);
  const unsigned blocks = static_cast<unsigned>(tokens);
  if (s.dim % 16) {
    forward_scalar<<<scalar_blocks(s, tokens), kScalarWarps * 32, 0, stream>>>(s, tokens, qkv, ld_qkv, q, ld_q, k, ld_k);
  } else {
    for_head_dim(s.dim, [&](auto g) {
      const int threads = vector_threads(s, g(), 4);
      if (s.q_norm) forward_vector<g(), true, 4><<<blocks, threads, 0, stream>>>(s, qkv, ld_qkv, q, ld_q, k, ld_k);
      else forward_vector<g(), false, 4><<<blocks, threads, 0, stream>>>(s, qkv, ld_qkv, q, ld_q, k, ld_k);
    });
  }
  check_launch("rope_forward");
}

void rope_backward(cudaStream_t stream, const Tables& tables, const RopeArguments& rope, const bf16* qkv, int64_t ld_qkv,
                   bf16* dqkv, int64_t ld_dqkv) {
  const int64_t tokens = tables.tokens;
  if (tokens <= 0) return;
  const Heads s = heads_of(tables, rope);
  const unsigned blocks = static_cast<unsigned>(tokens);
  if (s.dim % 16) {
    backward_scalar<<<scalar_blocks(s, tokens), kScalarWarps * 32, 0, stream>>>(s, tokens, qkv, ld_qkv, dqkv, ld_dqkv);
  } else {
    for_head_dim(s.dim, [&](auto g) {
      const int per_thread = s.q_norm ? 2 : 4, threads = vector_threads(s, g(), per_thread);
      if (s.q_norm) backward_vector<g(), true, 2><<<blocks, threads, 0, stream>>>(s, qkv, ld_qkv, dqkv, ld_dqkv);
      else backward_vector<g(), false, 4><<<blocks, threads, 0, stream>>>(s, qkv, ld_qkv, dqkv, ld_dqkv);
    });
  }
  check_launch("rope_backward");
}

}  // namespace tlora::cuda
