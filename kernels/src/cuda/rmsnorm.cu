// RMSNorm of rows, forward and backward.
//
// One block owns a row and holds it in registers between the sum and the output, so every input is read once: thread t has
// the vectors of 8 columns t, t + Threads, …, at most four of each operand. The block size comes from the width alone:
// 32 threads to 1,024 columns, 128 to 4,096, 256 to 8,192, 512 to 16,384. Whole: widths of whole vectors, without the code
// for the last one. Sums: see row.h. The fp32 weights stay in L1 (activations do not allocate there), which is why they may
// be read twice.
// Registers: 4 x 16 bytes per operand (forward 1, backward 3 operands); shared memory: one float per warp.
#include <string>
#include <type_traits>

#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/row.h"

namespace tlora::cuda {
namespace {

constexpr int kVectors = 4;

template <int Threads, bool Whole>
__global__ __launch_bounds__(Threads) void forward_kernel(const bf16* x, int64_t ld_x, const float* weight, float eps,
                                                          const int64_t* rows, int width, bf16* y, int64_t ld_y,
                                                          float* rstd) {
  __shared__ float scratch[Threads / 32];
  const int64_t i = blockIdx.x;
  const bf16* in = x + (rows ? rows[i] : i) * ld_x;
  bf16* out = y + i * ld_y;
  const int first = static_cast<int>(threadIdx.x) * 8;

  uint4 raw[kVectors];
#pragma unroll
  for (int k = 0; k < kVectors; ++k)
    if (const int column = first + k * Threads * 8; column < width) raw[k] = load_once(in + column);

  float squares = 0.0f;
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int column = first + k * Threads * 8;
    if (column >= width) continue;
    const int limit = Whole ? column + 8 : width;
    float v[8];
    unpack8(raw[k], column, limit, v);
#pragma unroll
    for (int j = 0; j < 8; ++j) squares = fmaf(v[j], v[j], squares);
  }
  const float mean = __fdiv_rn(block_sum<Threads>(squares, scratch), static_cast<float>(width));
  const float inverse = __fdiv_rn(1.0f, __fsqrt_rn(mean + eps));

#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int column = first + k * Threads * 8;
    if (column >= width) continue;
    const int limit = Whole ? column + 8 : width;
    float v[8], w[8];
    unpack8(raw[k], v);
    load8(weight, column, limit, w);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = w[j] * (v[j] * inverse);
    store8(out, column, limit, v);
  }
  if (rstd && threadIdx.x == 0) rstd[i] = inverse;
}

template <int Threads, bool Whole>
__global__ __launch_bounds__(Threads) void backward_kernel(const bf16* dy, int64_t ld_dy, const bf16* x, int64_t ld_x,
                                                           const float* weight, const float* rstd, const int64_t* rows,
                                                           int width, const bf16* residual, int64_t ld_residual, bf16* dx,
                                                           int64_t ld_dx) {
  __shared__ float scratch[Threads / 32];
  const int64_t i = blockIdx.x, r = rows ? rows[i] : i;
  const bf16* in = x + r * ld_x;
  const bf16* grad = dy + i * ld_dy;
  const bf16* carry = residual ? residual + r * ld_residual : nullptr;
  bf16* out = dx + r * ld_dx;
  const int first = static_cast<int>(threadIdx.x) * 8;
  const float inverse = rstd[i];

  uint4 raw_x[kVectors], raw_dy[kVectors], raw_carry[kVectors];
#pragma unroll
  for (int k = 0; k < kVectors; ++k)
    if (const int column = first + k * Threads * 8; column < width) {
      raw_x[k] = load_once(in + column);
      raw_dy[k] = load_once(grad + column);
      if (carry) raw_carry[k] = load_once(carry + column);
    }

  float products = 0.0f;
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int column = first + k * Threads * 8;
    if (column >= width) continue;
    const int limit = Whole ? column + 8 : width;
    float v[8], g[8], w[8];
    unpack8(raw_x[k], column, limit, v);
    unpack8(raw_dy[k], column, limit, g);
    load8(weight, column, limit, w);
#pragma unroll
    for (int j = 0; j < 8; ++j) products = fmaf(w[j] * g[j], v[j], products);
  }
  const float mean = __fdiv_rn(block_sum<Threads>(products, scratch), static_cast<float>(width));
  const float slope = inverse * inverse * mean;

#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int column = first + k * Threads * 8;
    if (column >= width) continue;
    const int limit = Whole ? column + 8 : width;
    float v[8], g[8], w[8];
    unpack8(raw_x[k], v);
    unpack8(raw_dy[k], g);
    load8(weight, column, limit, w);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = inverse * (w[j] * g[j] - v[j] * slope);
    if (carry) {
      unpack8(raw_carry[k], g);
#pragma unroll
      for (int j = 0; j < 8; ++j) v[j] = g[j] + v[j];
    }
    store8(out, column, limit, v);
  }
}

// Calls f with the block size of a width.
template <class F>
void for_width(int64_t width, const F& f) {
  if (width <= 1024) f(std::integral_constant<int, 32>());
  else if (width <= 4096) f(std::integral_constant<int, 128>());
  else if (width <= 8192) f(std::integral_constant<int, 256>());
  else if (width <= 16384) f(std::integral_constant<int, 512>());
  else throw Error(TL_UNSUPPORTED, "RMSNorm of " + std::to_string(width) + " columns; at most 16384");
}

}  // namespace

void rmsnorm_forward(cudaStream_t stream, const bf16* x, int64_t ld_x, const float* weight, float eps, const int64_t* rows,
                     int64_t n, int64_t width, bf16* y, int64_t ld_y, float* rstd) {
  if (n <= 0) return;
  for_width(width, [&](auto threads) {
    const auto kernel = width % 8 ? forward_kernel<threads(), false> : forward_kernel<threads(), true>;
    kernel<<<static_cast<unsigned>(n), threads(), 0, stream>>>(x, ld_x, weight, eps, rows, static_cast<int>(width), y, ld_y,
                                                               rstd);
  });
  check_launch("rmsnorm_forward");
}

void rmsnorm_backward(cudaStream_t stream, const bf16* dy, int64_t ld_dy, const bf16* x, int64_t ld_x, const float* weight,
                      const float* rstd, const int64_t* rows, int64_t n, int64_t width, const bf16* residual,
                      int64_t ld_residual, bf16* dx, int64_t ld_dx) {
  if (n <= 0) return;
  for_width(width, [&](auto threads) {
    const auto kernel = width % 8 ? backward_kernel<threads(), false> : backward_kernel<threads(), true>;
    kernel<<<static_cast<unsigned>(n), threads(), 0, stream>>>(dy, ld_dy, x, ld_x, weight, rstd, rows,
                                                               static_cast<int>(width), residual, ld_residual, dx, ld_dx);
  });
  check_launch("rmsnorm_backward");
}

}  // namespace tlora::cuda
