// What the kernels that walk along rows share: 16-byte accesses, bf16 <-> fp32, sums over a warp and a block.
//
// Order of sums: a lane adds its own elements by ascending column, a warp is a butterfly (both partners add the same two
// numbers, so all lanes end with equal bits), a block adds its warps by ascending index. It depends on the block size only.
#pragma once

#include <cstdint>

#include "cuda/tables.h"

namespace tlora::cuda {

// Activations pass once: they must not push weights and tables out of L1. Not the read-only path, since some callers
// write in place.
__device__ __forceinline__ uint4 load_once(const void* p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
}

__device__ __forceinline__ void unpack8(const uint4& v, float (&out)[8]) {
  const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = __uint_as_float(word[i] << 16);
    out[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
  }
}

__device__ __forceinline__ uint32_t pack2(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return static_cast<uint32_t>(__bfloat16_as_ushort(pair.x)) | static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
}

__device__ __forceinline__ uint4 pack8(const float (&v)[8]) {
  return make_uint4(pack2(v[0], v[1]), pack2(v[2], v[3]), pack2(v[4], v[5]), pack2(v[6], v[7]));
}

// The 8 elements from `column` on, zero from `width` on: what lies there is not the row's.
__device__ __forceinline__ void unpack8(const uint4& v, int64_t column, int64_t width, float (&out)[8]) {
  unpack8(v, out);
  if (column + 8 <= width) return;
#pragma unroll
  for (int i = 0; i < 8; ++i) out[i] = column + i < width ? out[i] : 0.0f;
}

// Rounds; elements from `width` on are not written.
__device__ __forceinline__ void store8(bf16* row, int64_t column, int64_t width, const float (&v)[8]) {
  if (column + 8 <= width) {
    *reinterpret_cast<uint4*>(row + column) = pack8(v);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (column + i < width) row[column + i] = __float2bfloat16_rn(v[i]);
}

// 8 fp32 of an array of `width`; nothing is read behind its end.
__device__ __forceinline__ void load8(const float* array, int64_t column, int64_t width, float (&out)[8]) {
  if (column + 8 <= width) {
    const float4 a = __ldg(reinterpret_cast<const float4*>(array + column));
    const float4 b = __ldg(reinterpret_cast<const float4*>(array + column) + 1);
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
    out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) out[i] = column + i < width ? __ldg(array + column + i) : 0.0f;
}

// Over aligned groups of `Lanes` lanes; all lanes of the warp take part.
template <int Lanes = 32, class T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
  for (int step = Lanes / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}

// All threads get the sum. `scratch`: one element for each warp, unused by an earlier call without a barrier in between.
template <int Threads, class T>
__device__ __forceinline__ T block_sum(T v, T* scratch) {
  static_assert(Threads % 32 == 0, "whole warps");
  v = warp_sum(v);
  if constexpr (Threads == 32) return v;
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  T sum = scratch[0];
#pragma unroll
  for (int warp = 1; warp < Threads / 32; ++warp) sum += scratch[warp];
  return sum;
}

}  // namespace tlora::cuda
