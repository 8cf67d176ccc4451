// act = silu(gate) * up and its backward, in place.
//
// A thread owns two vectors of 8 columns of a row (four or six 16-byte loads in flight) and has read all of its gate, up and
// dact before it writes, so every operand may be its own output. Blocks of 128 threads, 2,048 columns; no shared memory, no
// sums. `up` starts at column `width`: when that is not a multiple of 8 its vectors are not aligned, and a thread owns one
// element instead; both paths use the same expressions, so they give the same bits.
#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/row.h"
#include "cuda/swiglu.h"

namespace tlora::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kVectors = 2;
constexpr int kColumns = kThreads * kVectors * 8;

// blocks: of one row.
__global__ __launch_bounds__(kThreads) void forward_kernel(const bf16* gate_up, int64_t ld_gate_up, int width, int blocks,
                                                           bf16* act, int64_t ld_act) {
  const int64_t t = blockIdx.x / blocks;
  const int first = static_cast<int>(blockIdx.x % blocks) * kColumns + static_cast<int>(threadIdx.x) * 8;
  const bf16* gate = gate_up + t * ld_gate_up;
  const bf16* up = gate + width;
  uint4 raw_gate[kVectors], raw_up[kVectors];
#pragma unroll
  for (int k = 0; k < kVectors; ++k)
    if (const int column = first + k * kThreads * 8; column < width) {
      raw_gate[k] = load_once(gate + column);
      raw_up[k] = load_once(up + column);
    }
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int column = first + k * kThreads * 8;
    if (column >= width) continue;
    float g[8], u[8];
    unpack8(raw_gate[k], g);
    unpack8(raw_up[k], u);
#pragma unroll
    for (int j = 0; j < 8; ++j) g[j] = activate(g[j], sigmoid(g[j]), u[j]);
    *reinterpret_cast<uint4*>(act + t * ld_act + column) = pack8(g);
  }
}

__global__ __launch_bounds__(kThreads) void backward_kernel(bf16* gate_up, int64_t ld_gate_up, const bf16* dact,
                                                            int64_t ld_dact, int width, int blocks, bf16* act,
                                                            int64_t ld_act) {
  const int64_t t = blockIdx.x / blocks;
  const int first = static_cast<int>(blockIdx.x % blocks) * kColumns + static_cast<int>(threadIdx.x) * 8;
  bf16* gate = gate_up + t * ld_gate_up;
  bf16* up = gate + width;
  uint4 raw_gate[kVectors], raw_up[kVectors], raw_dy[kVectors];
#pragma unroll
  for (int k = 0; k < kVectors; ++k)
    if (const int column = first + k * kThreads * 8; column < width) {
      raw_gate[k] = load_once(gate + column);
      raw_up[k] = load_once(up + column);
      raw_dy[k] = load_once(dact + t * ld_dact + column);
    }
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int column = first + k * kThreads * 8;
    if (column >= width) continue;
    float g[8], u[8], dy[8];
    unpack8(raw_gate[k], g);
    unpack8(raw_up[k], u);
    unpack8(raw_dy[k], dy);
    turn_over8(g, u, dy);
    *reinterpret_cast<uint4*>(gate + column) = pack8(g);
    *reinterpret_cast<uint4*>(up + column) = pack8(u);
    if (act) *reinterpret_cast<uint4*>(act + t * ld_act + column) = pack8(dy);
  }
}

__global__ __launch_bounds__(kThreads) void forward_unaligned(const bf16* gate_up, int64_t ld_gate_up, int width, int blocks,
                                                              bf16* act, int64_t ld_act) {
  const int64_t t = blockIdx.x / blocks;
  const int column = static_cast<int>(blockIdx.x % blocks) * kThreads + static_cast<int>(threadIdx.x);
  if (column >= width) return;
  const bf16* gate = gate_up + t * ld_gate_up + column;
  const float g = __bfloat162float(gate[0]), u = __bfloat162float(gate[width]);
  act[t * ld_act + column] = __float2bfloat16_rn(activate(g, sigmoid(g), u));
}

__global__ __launch_bounds__(kThreads) void backward_unaligned(bf16* gate_up, int64_t ld_gate_up, const bf16* dact,
                                                               int64_t ld_dact, int width, int blocks, bf16* act,
                                                               int64_t ld_act) {
  const int64_t t = blockIdx.x / blocks;
  const int column = static_cast<int>(blockIdx.x % blocks) * kThreads + static_cast<int>(threadIdx.x);
  if (column >= width) return;
  bf16* gate = gate_up + t * ld_gate_up + column;
  const float g = __bfloat162float(gate[0]), u = __bfloat162float(gate[width]);
  const float dy = __bfloat162float(dact[t * ld_dact + column]), s = sigmoid(g);
  const GatedGradients d = gradients(g, s, u, dy);
  gate[0] = __float2bfloat16_rn(d.gate);
  gate[width] = __float2bfloat16_rn(d.up);
  if (act) act[t * ld_act + column] = __float2bfloat16_rn(activate(g, s, u));
}

}  // namespace

void swiglu_forward(cudaStream_t stream, const bf16* gate_up, int64_t ld_gate_up, int64_t n, int64_t width, bf16* act,
                    int64_t ld_act) {
  if (n <= 0) return;
  const int w = static_cast<int>(width), columns = w % 8 ? kThreads : kColumns, blocks = (w + columns - 1) / columns;
  const auto kernel = w % 8 ? forward_unaligned : forward_kernel;
  kernel<<<static_cast<unsigned>(n * blocks), kThreads, 0, stream>>>(gate_up, ld_gate_up, w, blocks, act, ld_act);
  check_launch("swiglu_forward");
}

void swiglu_backward(cudaStream_t stream, bf16* gate_up, int64_t ld_gate_up, const bf16* dact, int64_t ld_dact, int64_t n,
                     int64_t width, bf16* act, int64_t ld_act) {
  if (n <= 0) return;
  const int w = static_cast<int>(width), columns = w % 8 ? kThreads : kColumns, blocks = (w + columns - 1) / columns;
  const auto kernel = w % 8 ? backward_unaligned : backward_kernel;
  kernel<<<static_cast<unsigned>(n * blocks), kThreads, 0, stream>>>(gate_up, ld_gate_up, dact, ld_dact, w, blocks, act,
                                                                     ld_act);
  check_launch("swiglu_backward");
}

}  // namespace tlora::cuda
