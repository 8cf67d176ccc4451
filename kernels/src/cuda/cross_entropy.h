// What the kernels of cross entropy share: the order of logits, exponentials around rows without a finite one, the result.
#pragma once

#include <cmath>

#include "cuda/row.h"

namespace tlora::cuda {

// Device pointers; see cross_entropy in kernels.h.
struct CrossEntropy {
  float* logits;
  int64_t ld;
  int vocab;
  const int32_t* targets;
  const float* scale;
  double* loss;
  uint8_t* correct;
};

__device__ __forceinline__ float lowest() { return -INFINITY; }

__device__ __forceinline__ float largest(const float4& v) { return fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)); }

// x - (-inf) is not a number: without a finite logit exponentials are taken as they are.
__device__ __forceinline__ float base_of(float top) { return top == lowest() ? 0.0f : top; }

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
  return v;
}

// `beaten`: a logit stands before the target in the order of largest value, lowest id.
__device__ __forceinline__ void report(const CrossEntropy& c, int64_t i, float sum, float top, float target_logit,
                                       bool beaten) {
  c.loss[i] = log(static_cast<double>(sum)) + (static_cast<double>(top) - static_cast<double>(target_logit));
  c.correct[i] = beaten || target_logit != top ? 0 : 1;  // not equal: not a number
}

}  // namespace tlora::cuda
