// Rows of the embedding table. One block of 128 threads copies a row, up to four 16-byte loads in flight per thread; no
// shared memory.
#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/row.h"

namespace tlora::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kVectors = 4;

__global__ __launch_bounds__(kThreads) void embed_kernel(const bf16* table, int64_t ld_table, const int32_t* tokens,
                                                         int64_t width, bf16* x, int64_t ld_x) {
  const int64_t t = blockIdx.x;
  const bf16* from = table + tokens[t] * ld_table;
  bf16* to = x + t * ld_x;
  for (int64_t first = threadIdx.x * 8; first < width; first += kThreads * kVectors * 8) {
    uint4 v[kVectors];
#pragma unroll
    for (int k = 0; k < kVectors; ++k)
      if (const int64_t column = first + k * kThreads * 8; column < width) v[k] = load_once(from + column);
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const int64_t column = first + k * kThreads * 8;
      if (column + 8 <= width) {
        *reinterpret_cast<uint4*>(to + column) = v[k];
      } else if (column < width) {
        for (int64_t c = column; c < width; ++c) to[c] = from[c];
      }
    }
  }
}

}  // namespace

void embed(cudaStream_t stream, const bf16* table, int64_t ld_table, const int32_t* tokens, int64_t n, int64_t width, bf16* x,
           int64_t ld_x) {
  if (n <= 0) return;
  embed_kernel<<<static_cast<unsigned>(n), kThreads, 0, stream>>>(table, ld_table, tokens, width, x, ld_x);
  check_launch("embed");
}

}  // namespace tlora::cuda
