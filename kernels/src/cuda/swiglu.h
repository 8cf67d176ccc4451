// silu(gate) * up of one element, and its gradients: one expression for all kernels that compute it, so that they give the
// same bits.
//
// sigmoid(g) = 1 / (1 + expf(-g)) with the approximate reciprocal (1 ulp of fp32, against the 2^16 ulp of the bf16 rounding
// behind it; a denominator beyond 2^126 gives 0 where the quotient is below 2e-38). The denominator is at least 1, so the
// approximate division, which gives the same bits, would only add its care for small ones. The addition is not contracted into
// expf's last multiplication, so forward and backward have one value.
#pragma once

#include <cuda_runtime.h>

namespace tlora::cuda {

__device__ __forceinline__ float sigmoid(float g) {
  float s;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(s) : "f"(__fadd_rn(1.0f, expf(-g))));
  return s;
}

__device__ __forceinline__ float activate(float g, float s, float u) { return g * s * u; }

struct GatedGradients {
  float gate, up;
};
// silu'(g) = sigmoid · (1 + g · (1 - sigmoid))
__device__ __forceinline__ GatedGradients gradients(float g, float s, float u, float dy) {
  const float slope = s * fmaf(g, 1.0f - s, 1.0f);
  return {dy * u * slope, dy * (g * s)};
}
// Of eight elements: gate and up become their gradients, dy becomes act.
__device__ __forceinline__ void turn_over8(float (&gate)[8], float (&up)[8], float (&dy)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float s = sigmoid(gate[i]);
    const GatedGradients d = gradients(gate[i], s, up[i], dy[i]);
    dy[i] = activate(gate[i], s, up[i]);
    gate[i] = d.gate;
    up[i] = d.up;
  }
}

}  // namespace tlora::cuda
