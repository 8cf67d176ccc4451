// Initial adapter weights, and working copies from flat weights. One block of 256 threads per piece (flat_state.h).
//
// Element e of A at tensor layer * 7 + module is bound * u, u = (word e % 4 of Philox4x32-10(seed, {e / 4, tensor, 0,
// 'init'}) >> 8) * 2^-23 - 1: u is exact in fp32, so the only rounding is the product and the bits are those of any device.
#include <cmath>

#include "cuda/check.h"
#include "cuda/flat_state.h"
#include "cuda/kernels.h"
#include "cuda/philox.h"

namespace tlora::cuda {
namespace {

constexpr int kThreads = 256;

struct Bounds {
  float of[kModuleCount];
};

__device__ __forceinline__ float uniform(uint32_t word, float bound) {
  return __fmul_rn(bound, __fsub_rn(__fmul_rn(static_cast<float>(word >> 8), 0x1p-23f), 1.0f));
}

__global__ __launch_bounds__(kThreads) void init_kernel(float* weight, uint64_t seed, int rank, uint32_t targets,
                                                        const __grid_constant__ ModuleSizes sizes,
                                                        const __grid_constant__ Bounds bounds) {
  const Piece p = piece_at(sizes, targets, rank, static_cast<int>(blockIdx.x));
  float* matrix = weight + rank * p.before;
  const uint32_t tensor = static_cast<uint32_t>(p.layer * kModuleCount + p.module);
  const int end = min(p.first + kPiece, p.elements);
  const float bound = p.is_b ? 0.0f : bounds.of[p.module];
  for (int e = p.first + static_cast<int>(threadIdx.x) * 4; e < end; e += kThreads * 4) {
    float v[4] = {};
    if (!p.is_b) {
      const uint4 word = philox(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), static_cast<uint32_t>(e / 4),
                                tensor, 0, kInitTag);
      v[0] = uniform(word.x, bound);
      v[1] = uniform(word.y, bound);
      v[2] = uniform(word.z, bound);
      v[3] = uniform(word.w, bound);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (e + i < end) matrix[e + i] = v[i];
  }
}

// Pieces of the padded matrices: A [columns, in] and B [out, columns], columns = ceil16(rank).
__global__ __launch_bounds__(kThreads) void refresh_kernel(const float* weight, int rank, int columns, int home_column,
                                                           uint32_t targets, const __grid_constant__ ModuleSizes sizes,
                                                           const Home* homes) {
  const Piece p = piece_at(sizes, targets, columns, static_cast<int>(blockIdx.x));
  const float* matrix = weight + rank * p.before;
  const Home home = homes[p.layer * kModuleCount + p.module];
  const int end = min(p.first + kPiece, p.elements), in = static_cast<int>(sizes.in[p.module]);
  for (int e = p.first + static_cast<int>(threadIdx.x); e < end; e += kThreads) {
    if (p.is_b) {
      const int o = e / columns, r = e % columns;
      home.b[o * home.ldb + home_column + r] = working_copy(r < rank ? matrix[static_cast<int64_t>(o) * rank + r] : 0.0f);
    } else {
      const int r = e / in, c = e % in;
      home.a[(home_column + r) * home.lda + c] = working_copy(r < rank ? matrix[static_cast<int64_t>(r) * in + c] : 0.0f);
    }
  }
}

}  // namespace

void adapter_init(cudaStream_t stream, float* weight, uint64_t seed, int32_t rank, uint32_t targets, const ModuleSizes& sizes,
                  int32_t layers) {
  const int pieces = layers * layer_pieces(sizes, targets, rank);
  if (pieces <= 0) return;
  Bounds bounds{};
  for (int m = 0; m < kModuleCount; ++m)
    if (sizes.in[m] > 0) bounds.of[m] = static_cast<float>(1.0 / std::sqrt(static_cast<double>(sizes.in[m])));
  init_kernel<<<static_cast<unsigned>(pieces), kThreads, 0, stream>>>(weight, seed, rank, targets, sizes, bounds);
  check_launch("adapter_init");
}

void adapter_refresh(cudaStream_t stream, const float* weight, int32_t rank, int32_t home_column, uint32_t targets,
                     const ModuleSizes& sizes, int32_t layers, const Home* homes) {
  const int columns = (rank + 15) / 16 * 16, pieces = layers * layer_pieces(sizes, targets, columns);
  if (pieces <= 0) return;
  refresh_kernel<<<static_cast<unsigned>(pieces), kThreads, 0, stream>>>(weight, rank, columns, home_column, targets, sizes,
                                                                         homes);
  check_launch("adapter_refresh");
}

}  // namespace tlora::cuda
