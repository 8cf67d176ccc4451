#include <cmath>

#include "cpu/cpu_backend.h"

namespace tlora::cpu {

void CpuBackend::rmsnorm_forward(Matrix x, const float* weight, float eps, const int64_t* rows, int64_t n, int64_t width,
                                 Matrix y, float* rstd) {
  const int64_t whole = width / kLanes * kLanes, rest = width - whole;
#pragma omp parallel for num_threads(threads_) schedule(static)
  for (int64_t i = 0; i < n; ++i) {
    const float* in = f32(x) + (rows ? rows[i] : i) * x.ld;
    float* out = f32(y) + i * y.ld;
    Vec squares{};
    for (int64_t c = 0; c < whole; c += kLanes) squares += load(in + c) * load(in + c);
    if (rest) {
      const Vec tail = load_part(in + whole, rest);
      squares += tail * tail;
    }
    const float inverse = 1.0f / std::sqrt(sum_lanes(squares) / static_cast<float>(width) + eps);
    for (int64_t c = 0; c < whole; c += kLanes) store(out + c, round(load(weight + c) * (load(in + c) * inverse)));
    for (int64_t c = whole; c < width; ++c) out[c] = round(weight[c] * (in[c] * inverse));
    if (rstd) rstd[i] = inverse;
  }
}

void CpuBackend::rmsnorm_backward(Matrix dy, Matrix x, const float* weight, const float* rstd, const int64_t* rows, int64_t n,
                                  int64_t width, const Matrix* residual, Matrix dx) {
  const int64_t whole = width / kLanes * kLanes, rest = width - whole;
#pragma omp parallel for num_threads(threads_) schedule(static)
  for (int64_t i = 0; i < n; ++i) {
    const int64_t r = rows ? rows[i] : i;
    const float* in = f32(x) + r * x.ld;
    const float* grad = f32(dy) + i * dy.ld;
    const float* carry = residual ? f32(*residual) + r * residual->ld : nullptr;
    float* out = f32(dx) + r * dx.ld;
    Vec products{};
    for (int64_t c = 0; c < whole; c += kLanes) products += load(weight + c) * load(grad + c) * load(in + c);
    if (rest) products += load_part(weight + whole, rest) * load_part(grad + whole, rest) * load_part(in + whole, rest);
    const float inverse = rstd[i];
    const float slope = inverse * inverse * (sum_lanes(products) / static_cast<float>(width));
    for (int64_t c = 0; c < width; c += kLanes) {
      const int64_t count = std::min<int64_t>(kLanes, width - c);
      const bool full = count == kLanes;
      const Vec w = full ? load(weight + c) : load_part(weight + c, count);
      const Vec g = full ? load(grad + c) : load_part(grad + c, count);
      const Vec v = full ? load(in + c) : load_part(in + c, count);
      Vec d = inverse * (w * g - v * slope);
      if (carry) d = (full ? load(carry + c) : load_part(carry + c, count)) + d;
      d = round(d);
      if (full) store(out + c, d);
      else store_part(out + c, d, count);
    }
  }
}

}  // namespace tlora::cpu
