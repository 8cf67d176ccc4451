// Optional per-head RMSNorm (Qwen3) and rotary positions on q and k.
#include <cmath>
#include <vector>

#include "cpu/cpu_backend.h"

namespace tlora::cpu {
namespace {

float inverse_rms(const float* x, int64_t d, float eps) {
  float sum = 0;
  for (int64_t i = 0; i < d; ++i) sum += x[i] * x[i];
  return 1.0f / std::sqrt(sum / static_cast<float>(d) + eps);
}

// Row t of the batch to its position in its own segment.
std::vector<int64_t> positions(const Batch& batch) {
  std::vector<int64_t> position(static_cast<size_t>(batch.tokens));
  for (const Segment& s : batch.segments)
    for (int64_t t = 0; t < s.length; ++t) position[static_cast<size_t>(s.start + t)] = t;
  return position;
}

}  // namespace

void CpuBackend::rope_forward(const Batch& batch, AttentionShape shape, Matrix qkv, const float* q_norm, const float* k_norm,
                              float eps, RopeTable table, Matrix q_out, Matrix k_out) {
  const int64_t d = shape.head_dim, half = d / 2;
  const std::vector<int64_t> position = positions(batch);
#pragma omp parallel for num_threads(threads_) schedule(static)
  for (int64_t t = 0; t < batch.tokens; ++t) {
    const float* cosine = table.cosine + position[static_cast<size_t>(t)] * half;
    const float* sine = table.sine + position[static_cast<size_t>(t)] * half;
    const float* in = f32(qkv) + t * qkv.ld;
    for (int64_t h = 0; h < shape.heads + shape.kv_heads; ++h, in += d) {
      const bool is_q = h < shape.heads;
      float* out = is_q ? f32(q_out) + t * q_out.ld + h * d : f32(k_out) + t * k_out.ld + (h - shape.heads) * d;
      const float* weight = is_q ? q_norm : k_norm;
      const float inverse = weight ? inverse_rms(in, d, eps) : 1.0f;
      for (int64_t i = 0; i < half; ++i) {
        const float lo = weight ? weight[i] * (in[i] * inverse) : in[i];
        const float hi = weight ? weight[i + half] * (in[i + half] * inverse) : in[i + half];
        out[i] = lo * cosine[i] - hi * sine[i];
        out[i + half] = hi * cosine[i] + lo * sine[i];
      }
      if (bf16_)
        for (int64_t i = 0; i < d; ++i) out[i] = round_bf16(out[i]);
    }
  }
}

void CpuBackend::rope_backward(const Batch& batch, AttentionShape shape, Matrix qkv, const float* q_norm, const float* k_norm,
                               float eps, RopeTable table, Matrix dqkv) {
  const int64_t d = shape.head_dim, half = d / 2;
  const std::vector<int64_t> position = positions(batch);
#pragma omp parallel for num_threads(threads_) schedule(static)
  for (int64_t t = 0; t < batch.tokens; ++t) {
    const float* cosine = table.cosine + position[static_cast<size_t>(t)] * half;
    const float* sine = table.sine + position[static_cast<size_t>(t)] * half;
    const float* in = f32(qkv) + t * qkv.ld;
    float* grad = f32(dqkv) + t * dqkv.ld;
    for (int64_t h = 0; h < shape.heads + shape.kv_heads; ++h, in += d, grad += d) {
      const float* weight = h < shape.heads ? q_norm : k_norm;
      for (int64_t i = 0; i < half; ++i) {
        const float lo = grad[i], hi = grad[i + half];
        grad[i] = lo * cosine[i] + hi * sine[i];
        grad[i + half] = hi * cosine[i] - lo * sine[i];
      }
      if (weight) {
        const float inverse = inverse_rms(in, d, eps);
        float sum = 0;
        for (int64_t i = 0; i < d; ++i) sum += weight[i] * grad[i] * in[i];
        const float slope = inverse * inverse * (sum / static_cast<float>(d));
        for (int64_t i = 0; i < d; ++i) grad[i] = inverse * (weight[i] * grad[i] - in[i] * slope);
      }
      if (bf16_)
        for (int64_t i = 0; i < d; ++i) grad[i] = round_bf16(grad[i]);
    }
  }
}

}  // namespace tlora::cpu
