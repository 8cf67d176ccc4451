#include "cpu/cpu_backend.h"

namespace tlora::cpu {

void CpuBackend::swiglu_forward(Matrix gate_up, int64_t n, int64_t width, Matrix act) {
#pragma omp parallel for num_threads(threads_) schedule(static)
  for (int64_t t = 0; t < n; ++t) {
    const float* gate = f32(gate_up) + t * gate_up.ld;
    const float* up = gate + width;
    float* out = f32(act) + t * act.ld;
    for (int64_t c = 0; c < width; c += kLanes) {
      const int64_t count = std::min<int64_t>(kLanes, width - c);
      const bool full = count == kLanes;
      const Vec g = full ? load(gate + c) : load_part(gate + c, count);
      const Vec u = full ? load(up + c) : load_part(up + c, count);
      const Vec y = round(g / (1.0f + exponential(-g)) * u);
      if (full) store(out + c, y);
      else store_part(out + c, y, count);
    }
  }
}

void CpuBackend::swiglu_backward(Matrix gate_up, Matrix dact, int64_t n, int64_t width, Matrix act) {
#pragma omp parallel for num_threads(threads_) schedule(static)
  for (int64_t t = 0; t < n; ++t) {
    float* gate = f32(gate_up) + t * gate_up.ld;
    float* up = gate + width;
    const float* grad = f32(dact) + t * dact.ld;
    float* out = act.data ? f32(act) + t * act.ld : nullptr;  // may be grad's row: every vector is read before it is written
    for (int64_t c = 0; c < width; c += kLanes) {
      const int64_t count = std::min<int64_t>(kLanes, width - c);
      const bool full = count == kLanes;
      const Vec g = full ? load(gate + c) : load_part(gate + c, count);
      const Vec u = full ? load(up + c) : load_part(up + c, count);
      const Vec dy = full ? load(grad + c) : load_part(grad + c, count);
      const Vec one_plus = 1.0f + exponential(-g), sigmoid = 1.0f / one_plus;
      // silu'(g) = sigmoid · (1 + g · (1 - sigmoid))
      const Vec dg = round(dy * u * (sigmoid * (1.0f + g * (1.0f - sigmoid))));
      const Vec du = round(dy * (g * sigmoid));
      const Vec y = round(g / one_plus * u);  // swiglu_forward's expression, not g * sigmoid: the same bits
      if (full) {
        store(gate + c, dg);
        store(up + c, du);
        if (out) store(out + c, y);
      } else {
        store_part(gate + c, dg, count);
        store_part(up + c, du, count);
        if (out) store_part(out + c, y, count);
      }
    }
  }
}

}  // namespace tlora::cpu
