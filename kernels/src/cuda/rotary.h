// A pair of elements in a rotary position: one expression for all kernels that compute it, so that they give the same bits.
// The roundings are written out: what the compiler contracts could differ from one kernel to the next.
#pragma once

#include <cuda_runtime.h>

namespace tlora::cuda {

// (low, high) becomes (low * cosine - high * sine, high * cosine + low * sine). Backward, its transpose, is the same with
// -sine: a sign changes no rounding.
__device__ __forceinline__ void rotate(float& low, float& high, float cosine, float sine) {
  const float before = low;
  low = __fmaf_rn(cosine, low, -__fmul_rn(sine, high));
  high = __fmaf_rn(cosine, high, __fmul_rn(sine, before));
}

}  // namespace tlora::cuda
