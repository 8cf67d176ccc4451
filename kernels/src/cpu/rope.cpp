// Optional per-head RMSNorm (Qwen3) and rotary positions on q and k.
#include <cmath>
#include <vector>

#include "cpu/cpu_backend.h"

namespace tlora::cpu {
namespace {

float dot(const float* a, const float* b, int64_t d) {
  Vec sums{};
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) sums += load(a + i) * load(b + i);
  if (i < d) sums += load_part(a + i, d - i) * load_part(b + i, d - i);
  return sum_lanes(sums);
}

float inverse_rms(const float* x, int64_t d, float eps) { return 1.0f / std::sqrt(dot(x, x, d) / static_cast<float>(d) + eps); }

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
      if (weight) {
        const float inverse = inverse_rms(in, d, eps);
        for (int64_t i = 0; i < d; ++i) out[i] = weight[i] * (in[i] * inverse);
      }
      const float* from = weight ? out : in;
      for (int64_t i = 0; i < half; ++i) {
        const float lo = from[i], hi = from[i + half];
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
        for (int64_t i = 0; i < d; ++i) grad[i] *= weight[i];
        const float sum = dot(grad, in, d);
        const float slope = inverse * inverse * (sum / static_cast<float>(d));
        for (int64_t i = 0; i < d; ++i) grad[i] = inverse * (grad[i] - in[i] * slope);
      }
      if (bf16_)
        for (int64_t i = 0; i < d; ++i) grad[i] = round_bf16(grad[i]);
    }
  }
}

}  // namespace tlora::cpu
